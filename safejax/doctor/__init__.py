"""What about this installation, process and these folders makes safejax worth less."""
