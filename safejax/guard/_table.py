"""The one table of what a guard watches: API, category, reason.

One row is one API. A line reads ``api = other sources : reason``; sources are dotted
paths, or audit events of the interpreter, marked with ``!``. Without a source the API
itself is the path. A path's module may not be loaded, or not exist in one line of JAX:
the row then waits. A class stands for making an instance.
"""

from __future__ import annotations

from safejax.guard._policy import Category
from safejax.guard._row import Row, parsed

_INTROSPECTION = """
jax.make_jaxpr : shows the program of a function, constants included
jax.eval_shape : runs a function on shapes, outside of the program that is reviewed
jax.jit(f).trace = jax._src.pjit.jit_trace safejax.jit._plain.Controls.trace : its text
jax.jit(f).lower = jax._src.pjit.jit_lower safejax.jit._plain.Controls.lower : its text
jax.jit(f).eval_shape = jax._src.pjit.jit_eval_shape
    safejax.jit._plain.Controls.eval_shape : runs a function on shapes
jax.stages.Traced.lower : makes a program that nobody has reviewed
jax.stages.Lowered.compile : spends a compiler's time
jax.stages.Lowered.as_text : the text of a program, constants included
jax.stages.Lowered.compiler_ir : the program itself, open to change
jax.stages.Lowered.cost_analysis : asks the compiler
jax.stages.Compiled.call = jax.stages.Compiled.__call__ : a program nobody has reviewed
jax.stages.Compiled.as_text : the text of a program, constants included
jax.stages.Compiled.cost_analysis : asks the compiler
jax.stages.Compiled.memory_analysis : asks the compiler
jax.stages.Compiled.runtime_executable : hands out what runs
jax.closure_convert : pulls captured values out of a function
jax.live_arrays : every array of the process, whoever owns it
jax.print_environment_info : tells of the machine
jax.ad_checkpoint.print_saved_residuals = jax._src.ad_checkpoint.print_saved_residuals :
    prints
jax._src.ad_checkpoint.saved_residuals : lists what a gradient keeps
jax.core.eval_jaxpr : runs a program that was made by hand
jax.extend.core.jaxpr_as_fun = jax._src.core.jaxpr_as_fun : runs a made-up program
jax.extend.core.check_jaxpr = jax._src.core.check_jaxpr : walks a program
jax.extend.core.jaxprs_in_params = jax._src.core.jaxprs_in_params : walks a program
jax.extend.core.subjaxprs = jax._src.core.subjaxprs : walks a program
jax.extend.core.new_jaxpr_eqn = jax._src.core.new_jaxpr_eqn : makes part of a program
jax.extend.core.set_current_trace = jax._src.core.set_current_trace : leaves a trace
jax.extend.core.take_current_trace =
    jax._src.core.TakeCurrentTraceContextManager.__enter__ : leaves the watched trace
jax.extend.core.find_top_trace = jax._src.core.find_top_trace : hands out the trace
jax.core.eval_context : computes while tracing, outside of the program that is reviewed
jax.interpreters.partial_eval.trace_to_jaxpr_dynamic : makes a program by hand
jax.interpreters.partial_eval.trace_to_jaxpr_nounits : makes a program by hand
jax.interpreters.partial_eval.dce_jaxpr : changes a program
jax.interpreters.partial_eval.partial_eval_jaxpr_nounits : changes a program
jax.interpreters.mlir.lower_jaxpr_to_module : makes a module that nobody has reviewed
jax.interpreters.mlir.module_to_string : the text of a program, constants included
jax.interpreters.mlir.module_to_bytecode : the bytes of a program
jax.extend.backend.get_backend = jax._src.xla_bridge.get_backend : the compiler itself
jax.extend.backend.backends = jax._src.xla_bridge.backends : the compilers themselves
jax.experimental.roofline.roofline = jax.experimental.roofline.roofline.roofline : walks
jax.experimental.roofline.roofline_and_grad =
    jax.experimental.roofline.roofline.roofline_and_grad : walks a program
jax.experimental.source_mapper.generate_sourcemaps =
    jax.experimental.source_mapper.generate_map.generate_sourcemaps : shows a program
    beside its source
jax.experimental.pallas.lower_as_mlir = jax._src.pallas.core.lower_as_mlir : its text
jax.experimental.pallas.estimate_cost = jax._src.pallas.cost_estimate.estimate_cost :
    walks a program
gc.get_objects = !gc.get_objects : every object of the process, whoever owns it
gc.get_referrers = !gc.get_referrers : finds the owners of an object
gc.get_referents = !gc.get_referents : looks into an object
sys._current_frames = !sys._current_frames : looks into other threads
sys._current_exceptions = !sys._current_exceptions : looks into other threads
"""

_CALLBACKS = """
jax.pure_callback : the program calls Python when it runs
jax.experimental.io_callback : the program calls Python when it runs
jax.debug.callback : the program calls Python when it runs
jax.debug.print : the program prints values
jax.debug.breakpoint : the program waits for somebody at the keyboard
jax.debug.inspect_array_sharding : calls Python from the compiler
jax.debug.visualize_array_sharding : prints
jax.debug.visualize_sharding : prints
jax.interpreters.mlir.emit_python_callback : the program calls Python when it runs
jax.experimental.buffer_callback.buffer_callback =
    jax._src.buffer_callback.buffer_callback : the program hands its memory to Python
jax.experimental.host_callback.call : the program calls Python when it runs
jax.experimental.colocated_python.colocated_python =
    jax.experimental.colocated_python.api.colocated_python : runs Python on other hosts
jax.experimental.colocated_python.colocated_python_class =
    jax.experimental.colocated_python.api.colocated_python_class : runs Python on other
    hosts
jax.experimental.checkify.debug_check = jax._src.checkify.debug_check : the program
    calls Python when it runs
jax.experimental.pallas.debug_print = jax._src.pallas.primitives.debug_print : a kernel
    prints values
jax.experimental.pallas.debug_check = jax._src.pallas.core.debug_check : a kernel calls
    Python
jax.make_array_from_callback : calls Python for each shard
jax.monitoring.register_event_listener : is called by JAX from now on, scope or not
jax.monitoring.register_event_duration_secs_listener : is called by JAX from now on,
    scope or not
jax.monitoring.register_event_time_span_listener : is called by JAX from now on, scope
    or not
jax.monitoring.register_scalar_listener : is called by JAX from now on, scope or not
jax.monitoring.clear_event_listeners : silences whoever watches JAX
"""

_PRIMITIVES = """
jax.extend.core.Primitive = jax._src.core.Primitive : a new operation, with code of its
    own for every step
jax.extend.core.create_call_primitive = jax._src.lax.eval_jaxpr.create_call_primitive :
    a new operation
jax.extend.core.primitives.register_call_primitive_rules =
    jax._src.lax.eval_jaxpr.register_call_primitive_rules : changes what an operation
    means
jax.extend.core.Primitive.def_impl = jax._src.core.Primitive.def_impl : changes what an
    operation means
jax.extend.core.Primitive.def_abstract_eval = jax._src.core.Primitive.def_abstract_eval
    : changes what an operation means
jax.extend.core.Primitive.def_effectful_abstract_eval =
    jax._src.core.Primitive.def_effectful_abstract_eval : changes what an operation
    means
jax.interpreters.mlir.register_lowering : changes what an operation compiles to
jax.interpreters.mlir.lower_fun : makes what an operation compiles to
jax.interpreters.mlir.register_constant_handler : changes what constants compile to
jax.interpreters.mlir.merge_mlir_modules : puts foreign code into a program
jax.interpreters.batching.defvectorized : changes what an operation means under vmap
jax.interpreters.batching.defbroadcasting : changes what an operation means under vmap
jax.interpreters.batching.defreducer : changes what an operation means under vmap
jax.interpreters.batching.register_vmappable : changes what vmap maps over
jax.interpreters.ad.defjvp : changes the derivative of an operation
jax.interpreters.ad.defjvp2 : changes the derivative of an operation
jax.interpreters.ad.deflinear : changes the derivative of an operation
jax.interpreters.ad.deflinear2 : changes the derivative of an operation
jax.interpreters.ad.defbilinear : changes the derivative of an operation
jax.ffi.ffi_call : calls native code
jax.ffi.ffi_lowering : calls native code
jax.ffi.build_ffi_lowering_function : calls native code
jax.ffi.pycapsule : turns an address into something to call
jax.ffi.register_ffi_target : loads native code
jax.ffi.register_ffi_type : loads native code
jax.ffi.register_ffi_type_id : loads native code
jax.ffi.register_ffi_target_as_batch_partitionable : loads native code
jax.experimental.pallas.pallas_call = jax._src.pallas.pallas_call.pallas_call : a kernel
    that addresses memory itself
jax.experimental.pallas.kernel = jax._src.pallas.helpers.kernel : a kernel that
    addresses memory itself
jax.experimental.pallas.core_map = jax._src.pallas.core.core_map : a kernel that
    addresses memory itself
jax.experimental.pallas.mosaic_gpu.kernel = jax._src.pallas.mosaic_gpu.core.kernel : a
    kernel that addresses memory itself
jax.experimental.pallas.mosaic_gpu.as_torch_kernel =
    jax._src.pallas.mosaic_gpu.torch.as_torch_kernel
    jax.experimental.mosaic.gpu.core.as_torch_gpu_kernel : a kernel for another runtime
jax.experimental.pallas.mosaic_gpu.inline_mgpu =
    jax._src.pallas.mosaic_gpu.primitives.inline_mgpu : code of a kernel's compiler
jax.experimental.pallas.triton.elementwise_inline_asm =
    jax._src.pallas.triton.primitives.elementwise_inline_asm : assembly
jax.experimental.mosaic.gpu.core.as_gpu_kernel : a kernel that addresses memory itself
jax.extend.pallas.register_lowering_rule = jax._src.pallas.core.register_lowering_rule :
    changes what a kernel compiles to
jax.experimental.custom_partitioning.custom_partitioning =
    jax._src.custom_partitioning.custom_partitioning : Python that the partitioner calls
jax._src.custom_partitioning.custom_partitioning.def_partition : the same
jax.experimental.hijax.HiPrimitive = jax._src.hijax.HiPrimitive : a new operation
jax.experimental.hijax.HiPrim = jax._src.hijax.HiPrim : a new operation
jax.experimental.hijax.VJPHiPrimitive = jax._src.hijax.VJPHiPrimitive : a new operation
jax.experimental.hijax.register_hitype = jax._src.hijax.register_hitype : a new type of
    value
jax.experimental.thunky.custom_call = jax._src.thunky.thunky.custom_call : calls native
    code
jax.experimental.thunky.ptx_kernel = jax._src.thunky.thunky.ptx_kernel : assembly
jax.experimental.thunky.call_jax = jax._src.thunky.thunky.call_jax : runs beside the
    reviewed program
jax.extend.xla.register_hlo_module_transformation =
    jax._src.xla_transform.register_hlo_module_transformation : changes programs after
    the review
jax.extend.xla.clear_hlo_module_transformation =
    jax._src.xla_transform.clear_hlo_module_transformation : changes what becomes of
    programs
jax.extend.random.define_prng_impl = jax._src.extend.random.define_prng_impl : replaces
    the random numbers
jax.experimental.roofline.register_roofline =
    jax.experimental.roofline.roofline.register_roofline : code for an operation, for
    the whole process
jax.tree_util.register_pytree_node : code that JAX calls from now on, scope or not
jax.tree_util.register_pytree_with_keys : code that JAX calls from now on, scope or not
"""

_SERIALIZATION = """
jax.export.export : makes a program for elsewhere
jax.export.deserialize = jax._src.export.serialization.deserialize : a program from
    bytes
jax.export.Exported.serialize : a program as bytes
jax.export.Exported.call : runs a program that was made elsewhere
jax.export.register_pytree_node_serialization : code that reads bytes from now on
jax.export.register_namedtuple_serialization : code that reads bytes from now on
jax.experimental.serialize_executable.serialize : a program as bytes
jax.experimental.serialize_executable.deserialize_and_load : loads native code
jax.experimental.array_serialization.pytree_serialization.save : writes files
jax.experimental.array_serialization.pytree_serialization.load : reads files
jax.experimental.array_serialization.pytree_serialization.nonblocking_save : writes
    files, later
jax.experimental.array_serialization.pytree_serialization.nonblocking_load : reads
    files, later
jax.experimental.array_serialization.serialization.run_serialization =
    jax.experimental.array_serialization.tensorstore_impl._run_serialization : writes
    files
jax.experimental.array_serialization.serialization.run_deserialization =
    jax.experimental.array_serialization.tensorstore_impl._run_deserialization : reads
    files
jax.experimental.array_serialization.serialization.async_serialize =
    jax.experimental.array_serialization.tensorstore_impl.async_serialize : writes files
jax.experimental.array_serialization.serialization.async_deserialize =
    jax.experimental.array_serialization.tensorstore_impl.async_deserialize : reads
    files
jax.numpy.load : reads a file, and can unpickle
jax.numpy.save : writes a file
jax.numpy.savez : writes a file
numpy.savez_compressed : writes a file
numpy.savetxt : writes a file
numpy.load : reads a file, and can unpickle
numpy.loadtxt : reads a file
numpy.genfromtxt : reads a file
numpy.lib.format.read_array : reads a file, and can unpickle
jax.dlpack.from_dlpack : memory of another library
pickle.loads = !pickle.find_class pickle._loads pickle._load pickle._Unpickler.load : a
    pickle chooses which functions are called
pickle._dumps = pickle._dump pickle._Pickler.dump : asks objects for code to be called
    later
marshal.loads = !marshal.loads !marshal.load : crashes on hostile bytes
marshal.dumps = !marshal.dumps : code as bytes
shelve.open : unpickles
cloudpickle.dumps : code as bytes
"""

_CODEGEN = """
exec = !exec : runs code that nobody has read; eval() too
compile = !compile : makes code that nobody has read; exec() and eval() of text too
types.FunctionType = !function.__new__ : a function made of parts
types.CodeType = !code.__new__ : bytecode made by hand
function.__code__ = !object.__setattr__ !object.__delattr__ : changes what a function
    does
import = importlib._bootstrap._find_and_load_unlocked : runs the code of a module that
    is not loaded yet
importlib.reload : runs the code of a module again
runpy.run_path : runs a file
runpy.run_module : runs a file
code.InteractiveInterpreter.runsource : runs text
timeit.Timer : runs text
sys.settrace = !sys.settrace threading.settrace threading.settrace_all_threads : code
    that runs in every function
sys.setprofile = !sys.setprofile threading.setprofile threading.setprofile_all_threads :
    code that runs in every function
sys.monitoring.register_callback = !sys.monitoring.register_callback : code that runs in
    every function, and can switch the guard off
sys.addaudithook = !sys.addaudithook : code that sees what everybody does
sys.unraisablehook = !sys.unraisablehook : code that runs when others fail
"""

_CONFIG = """
jax.config.update : changes JAX for the whole process
jax._src.config.State._set : changes JAX for the whole process
jax.config.State = jax._src.config.StateContextManager.__enter__ : jax.enable_x64() etc.
jax.transfer_guard : lifts a guard that somebody else has set
jax.config.parse_flags_with_absl : settings from a command line
jax.config.config_with_absl : settings from a command line
jax.jit(compiler_options) = jax._src.api.jit jax._src.pjit.make_jit : options such as
    xla_dump_to write files where they are told
jax.stages.Lowered.compile(compiler_options) = jax._src.stages.Lowered.compile : options
    such as xla_dump_to write files where they are told
jax.disable_jit : nothing is traced, nothing is reviewed
jax.ensure_compile_time_eval : computes while tracing, outside of the program that is
    reviewed
jax.make_user_context : every program of the process is traced again
jax.clear_caches : every program of the process is made again
jax.set_mesh : changes where programs run
jax.distributed.initialize : connects to others
jax.distributed.shutdown : disconnects everybody
jax.extend.backend.clear_backends = jax._src.api.clear_backends : every array of the
    process is lost
jax.extend.backend.clear_in_memory_compilation_cache =
    jax._src.interpreters.pxla.clear_in_memory_compilation_cache : forgets programs
jax.extend.backend.register_backend_factory =
    jax._src.xla_bridge.register_backend_factory : loads native code
jax.extend.backend.register_backend_cache = jax._src.util.register_cache : code that JAX
    calls from now on
jax._src.xla_bridge.register_plugin : loads native code
jax._src.xla_bridge.discover_pjrt_plugins : loads native code
jax.experimental.compilation_cache.compilation_cache.set_cache_dir : programs are read
    from, and written to, a folder
jax.experimental.compilation_cache.compilation_cache.reset_cache : forgets programs
jax.experimental.multihost_utils.sync_global_devices : waits for other hosts
jax.experimental.multihost_utils.process_allgather : sends data to other hosts
jax.experimental.multihost_utils.broadcast_one_to_all : sends data to other hosts
jax.experimental.pallas.tpu.force_tpu_interpret_mode =
    jax._src.pallas.mosaic.interpret.interpret_pallas_call.force_tpu_interpret_mode :
    kernels run as callbacks
jax.experimental.pallas.tpu.set_tpu_interpret_mode =
    jax._src.pallas.mosaic.interpret.interpret_pallas_call.set_tpu_interpret_mode :
    kernels run as callbacks
jax.extend.source_info_util.register_exclusion =
    jax._src.source_info_util.register_exclusion : hides code from error messages
os.putenv = !os.putenv !os.unsetenv : settings of the process, XLA_FLAGS among them
sys.setrecursionlimit = !sys.setrecursionlimit : lets the process crash
logging.config.dictConfig : can call anything
logging.config.fileConfig : can call anything
"""

_THREADS = """
threading.Thread.start : a thread has scopes of its own
_thread.start_new_thread = !_thread.start_new_thread !_thread.start_joinable_thread : a
    thread that no scope can follow
concurrent.futures.ThreadPoolExecutor.submit =
    concurrent.futures.thread.ThreadPoolExecutor.submit : a thread that may be older
    than the scope
concurrent.futures.ProcessPoolExecutor.submit =
    concurrent.futures.process.ProcessPoolExecutor.submit : another process
multiprocessing.Process.start = multiprocessing.process.BaseProcess.start : another
    process
asyncio.run_coroutine_threadsafe : another thread's loop
signal.signal : code that runs at any moment, scope or not
multiprocessing.pool.Pool.apply_async = multiprocessing.pool.Pool._map_async
    multiprocessing.pool.Pool.imap multiprocessing.pool.Pool.imap_unordered : threads or
    processes that are older than the scope
weakref.finalize : code that runs after the scope
"""

_SYSTEM = """
open = !open : files
os.listdir = !os.listdir !os.scandir !os.walk !os.fwalk !glob.glob !pathlib.Path.glob
    !pathlib.Path.rglob : files
os.remove = !os.remove !os.rmdir !os.rename !os.link !os.symlink !os.truncate
    !shutil.rmtree !shutil.move : files
os.mkdir = !os.mkdir !tempfile.mkstemp !tempfile.mkdtemp !shutil.copyfile
    !shutil.copytree !shutil.make_archive !shutil.unpack_archive : files
os.chmod = !os.chmod !os.chown !os.chflags !os.lockf !os.utime !os.setxattr
    !os.removexattr !shutil.chown !shutil.copymode !shutil.copystat : files
os.getxattr = !os.getxattr !os.listxattr : files
os.chdir = !os.chdir : files
mmap.mmap = !mmap.__new__ : files
fcntl.fcntl = !fcntl.fcntl !fcntl.flock !fcntl.ioctl !fcntl.lockf : files
os.system = !os.system : another process
os.exec = !os.exec : another process
os.fork = !os.fork !os.forkpty : another process
os.posix_spawn = !os.posix_spawn !os.spawn !os.startfile !os.startfile/2 : another
    process
subprocess.Popen = !subprocess.Popen : another process
os.kill = !os.kill !os.killpg !signal.pthread_kill : ends processes
pty.spawn = !pty.spawn : another process
webbrowser.open = !webbrowser.open : another process
socket.socket = !socket.__new__ !socket.bind !socket.connect !socket.sendto
    !socket.sendmsg !socket.getaddrinfo !socket.gethostbyname !socket.gethostbyaddr
    !socket.getnameinfo !socket.getservbyname !socket.getservbyport !socket.gethostname
    !socket.sethostname : the network
urllib.request.urlopen = !urllib.Request : the network
http.client.HTTPConnection = !http.client.connect !http.client.send : the network
ftplib.FTP = !ftplib.connect !ftplib.sendcmd !imaplib.open !imaplib.send !poplib.connect
    !poplib.putline !smtplib.connect !smtplib.send !telnetlib.Telnet.open
    !telnetlib.Telnet.write !nntplib.connect !nntplib.putline : the network
sqlite3.connect = !sqlite3.connect !sqlite3.connect/handle !sqlite3.load_extension
    !sqlite3.enable_load_extension : files
ctypes = !ctypes.dlopen !ctypes.dlsym !ctypes.dlsym/handle !ctypes.call_function
    !ctypes.cdata !ctypes.cdata/buffer !ctypes.addressof !ctypes.string_at
    !ctypes.wstring_at !ctypes.PyObj_FromPtr !ctypes.create_string_buffer
    !ctypes.create_unicode_buffer !ctypes.set_errno !ctypes.get_errno
    !ctypes.set_exception !ctypes.seh_exception : any memory, any function
resource.setrlimit = !resource.setrlimit !resource.prlimit : limits of the process
syslog.syslog = !syslog.syslog !syslog.openlog !syslog.closelog !syslog.setlogmask : the
    system's log
input = !builtins.input !builtins.breakpoint : waits for somebody at the keyboard
sys.remote_exec = !sys.remote_exec !remote_debugger_script
    !cpython.remote_debugger_script : another process
jax.profiler.start_trace : writes files
jax.profiler.stop_trace : writes files
jax.profiler.trace : writes files
jax.profiler.start_server : listens on a socket
jax.profiler.stop_server : switches a service off
jax.profiler.ProfileSession : writes files
jax.profiler.device_memory_profile : tells of every array of the process
jax.profiler.save_device_memory_profile : writes files
jax.profiler.register_subprocess : another process
jax.profiler.export_profile_data : writes files
jax.experimental.profiler.get_profiled_instructions_proto : reads files
"""

_TEXTS: dict[Category, str] = {
    "introspection": _INTROSPECTION,
    "callbacks": _CALLBACKS,
    "primitives": _PRIMITIVES,
    "serialization": _SERIALIZATION,
    "codegen": _CODEGEN,
    "config": _CONFIG,
    "threads": _THREADS,
    "system": _SYSTEM,
}


ROWS: tuple[Row, ...] = tuple(
    row for category, text in _TEXTS.items() for row in parsed(category, text)
)
