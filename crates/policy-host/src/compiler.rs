//! How a component becomes code: here, or by a process of its own that is held to limits.
//!
//! The compiler's time and memory depend on what it is given, and nothing in it can be made to give
//! up. A process can: the system ends it at its limits, and takes it first when memory runs out.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use wasmtime::{Config, Engine};

use super::{Limits, LoadError};

/// Depth of a policy's stack; its threads have at least twice as much.
const STACK_BYTES: usize = 1 << 20;

/// Address space of a linear memory where address space is limited, and by how much more it grows
/// at a time.
const SMALL_RESERVATION: u64 = 16 << 20;

/// Most bytes of what the compiler says went wrong.
const MESSAGE_BYTES: u64 = 4 << 10;

/// How often the limit of its processor time a compiler may take by the clock.
const WALL_TIMES: u32 = 20;

/// What a program says that was refused memory, for itself or for a thread.
#[cfg(unix)]
const NO_MEMORY: [&str; 3] =
    ["memory allocation of", "Resource temporarily unavailable", "Cannot allocate memory"];

/// Most bytes of code. That of the largest component has some 200 MB.
const CODE_BYTES: u64 = 1 << 30;

/// Where the compiler's settings depend on this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressSpace {
    limited: bool,
}

impl AddressSpace {
    /// That of this process.
    pub(super) fn of_process() -> Self {
        #[cfg(unix)]
        let limited = rustix::process::getrlimit(rustix::process::Resource::As).current.is_some();
        #[cfg(not(unix))]
        let limited = false;
        Self { limited }
    }

    /// The settings of the engine, and so of the code.
    ///
    /// A linear memory reserves the 4 GiB of addresses that 32 bits reach, so that no access needs
    /// a check. Where the process may not have as many, it reserves little and moves as it grows.
    pub(super) fn config(self) -> Config {
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .epoch_interruption(true)
            .consume_fuel(true)
            // The contract hands over addresses of 32 bits.
            .wasm_memory64(false)
            // No policy waits for another one, so none needs the machinery for it.
            .concurrency_support(false)
            .max_wasm_stack(STACK_BYTES);
        if self.limited {
            config
                .memory_reservation(SMALL_RESERVATION)
                .memory_reservation_for_growth(SMALL_RESERVATION)
                .memory_guard_size(64 << 10);
        }
        config
    }
}

/// The program that compiles policies, in a process of its own for each: it passes its standard
/// input to [`Compiler::serve`].
///
/// It must be of the same build as this library. Code of another one is refused.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    args: Vec<OsString>,
}

impl Compiler {
    /// The arguments come before those of [`Compiler::serve`], which are numbers.
    pub fn new(
        program: impl Into<PathBuf>,
        args: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect() }
    }

    /// Compiles the component on standard input for a host, and writes its code to standard output.
    /// `memory`, in bytes, and `time` are the most that this process may have from now on.
    ///
    /// # Errors
    /// What is wrong with the component, or with this machine. The host reads it on standard error.
    pub fn serve(memory: u64, time: Duration, small_reservation: bool) -> wasmtime::Result<()> {
        // Processor time is limited, and who waits for nothing takes none. Started while there is
        // memory for it.
        thread::Builder::new().spawn(move || {
            thread::sleep(time.saturating_mul(WALL_TIMES));
            std::process::abort();
        })?;
        #[cfg(unix)]
        limit_process(memory, time)?;
        #[cfg(not(unix))]
        let _ = (memory, time);
        let config = AddressSpace { limited: small_reservation }.config();
        let mut component = Vec::new();
        io::stdin().lock().read_to_end(&mut component)?;
        let code = Engine::new(&config)?.precompile_component(&component)?;
        let mut output = io::stdout().lock();
        output.write_all(&code)?;
        output.flush()?;
        Ok(())
    }

    /// The code of a component.
    pub(super) fn run(
        &self,
        component: &[u8],
        limits: &Limits,
        space: AddressSpace,
    ) -> Result<Vec<u8>, LoadError> {
        let numbers = [
            limits.compile_memory_bytes.to_string(),
            limits.compile_time.as_secs().max(1).to_string(),
            u8::from(space.limited).to_string(),
        ];
        let child = Command::new(&self.program)
            .args(&self.args)
            .args(numbers)
            // To print one takes memory when there is none, and locks that are held then.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.map_err(|error| {
            let program = self.program.display();
            LoadError::System(format!("can't start the compiler {program}: {error}"))
        })?;
        let Output { code, message, status } = talk(child, component).map_err(|error| {
            LoadError::System(format!("can't talk to the compiler of policies: {error}"))
        })?;
        match status.code() {
            Some(0) if !code.is_empty() => Ok(code),
            Some(1) => Err(LoadError::Compile(message)),
            _ => Err(ended(status, &message, limits)),
        }
    }
}

struct Output {
    code: Vec<u8>,
    message: String,
    status: ExitStatus,
}

/// Gives the child its input and takes what it says.
fn talk(mut child: Child, component: &[u8]) -> io::Result<Output> {
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let errors = child.stderr.take();
    let talked = thread::scope(|scope| {
        let message = scope.spawn(|| {
            let mut text = Vec::new();
            if let Some(errors) = errors {
                let mut errors = errors.take(MESSAGE_BYTES);
                errors.read_to_end(&mut text)?;
                // More than is kept must not hold up the child.
                io::copy(&mut errors.into_inner(), &mut io::sink())?;
            }
            io::Result::Ok(text)
        });
        // A child that has ended says why by its status.
        let sent = input.map_or(Ok(()), |mut input| input.write_all(component));
        let sent = sent.or_else(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        });
        let mut code = Vec::new();
        let taken = output.map_or(Ok(0), |output| output.take(CODE_BYTES).read_to_end(&mut code));
        let message = message.join().unwrap_or_else(|_| Ok(Vec::new()));
        sent?;
        taken?;
        io::Result::Ok((code, String::from_utf8_lossy(&message?).trim().to_owned()))
    });
    if talked.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    let (code, message) = talked?;
    Ok(Output { code, message, status })
}

/// Why the child ended without an answer.
#[cfg(unix)]
fn ended(status: ExitStatus, message: &str, limits: &Limits) -> LoadError {
    use std::os::unix::process::ExitStatusExt as _;

    use rustix::process::Signal;

    let memory = || LoadError::CompileMemory { limit: limits.compile_memory_bytes };
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        LoadError::CompileTime { limit: limits.compile_time }
    } else if is(Signal::KILL) || NO_MEMORY.iter().any(|words| message.contains(words)) {
        // By the system, which had no more to give, or by itself.
        memory()
    } else if message.contains("overflowed its stack") {
        LoadError::Compile("it is nested too deeply".to_owned())
    } else {
        LoadError::CompilerEnded(format!("{status}: {message}"))
    }
}

#[cfg(not(unix))]
fn ended(status: ExitStatus, message: &str, _: &Limits) -> LoadError {
    LoadError::CompilerEnded(format!("{status}: {message}"))
}

/// Limits this process, and has it end with the host that started it.
#[cfg(unix)]
fn limit_process(memory: u64, time: Duration) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        let parent = getppid();
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != parent {
            return Err(io::Error::other("the host has ended"));
        }
        // Where memory runs out, this process goes and not the host.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    }
    // What it is given is no reason to write all of its memory to a disk.
    for (resource, limit) in
        [(Resource::Data, memory), (Resource::Cpu, time.as_secs()), (Resource::Core, 0)]
    {
        let hard = getrlimit(resource).maximum;
        let limit = hard.map_or(limit, |hard| limit.min(hard));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: hard })?;
    }
    Ok(())
}

/// Compiles a component in this process, which is for those that are trusted.
pub(super) fn compile_here(engine: &Engine, component: &[u8]) -> Result<Vec<u8>, LoadError> {
    engine.precompile_component(component).map_err(|error| LoadError::Compile(format!("{error:#}")))
}
