//! What can be wrong with a policy, before it runs and while it does.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why something is no policy for this host; says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file can't be read.
    #[error("can't read the policy {}: {error}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// What the file holds is no policy.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<LoadError>,
    },
    /// The component is too large to be compiled.
    #[error(
        "the policy is larger than {limit} bytes; build it in release mode and strip it \
         (`wasm-tools strip`)"
    )]
    TooLarge {
        /// Most bytes that a component may have.
        limit: u64,
    },
    /// The bytes are not WebAssembly.
    #[error("not WebAssembly (the `\\0asm` header is missing); give the path of a .wasm component")]
    NotWasm,
    /// A core module, not a component.
    #[error(
        "a core WebAssembly module, not a component; turn it into one with \
         `edgestore-host policy pack module.wasm -o policy.wasm`"
    )]
    CoreModule,
    /// The bytes are broken, or use what this host's WebAssembly lacks.
    #[error("does not compile: {0}; build it again, and with default WebAssembly features")]
    Compile(String),
    /// The compiler took more processor time than it may.
    #[error(
        "takes more than {limit:?} of processor time to compile; make it smaller, or raise \
         limits.compile-time"
    )]
    CompileTime {
        /// [`Limits::compile_time`](super::Limits::compile_time).
        limit: Duration,
    },
    /// The compiler took more memory than it may, or than there is.
    #[error(
        "takes more memory to compile than there is, or than {limit} bytes; make it smaller, or \
         raise limits.compile-memory"
    )]
    CompileMemory {
        /// [`Limits::compile_memory_bytes`](super::Limits::compile_memory_bytes).
        limit: u64,
    },
    /// The compiler ended in a way that nobody expects.
    #[error("the compiler failed ({0}); please report this with the policy")]
    CompilerEnded(String),
    /// It did not compile before, within the same limits.
    #[error("{0} (it was tried before, and is not tried at each start)")]
    Refused(String),
    /// Imports something that no policy is given.
    #[error("imports {import}, which a policy is not given{}", import_fix(import))]
    ForeignImport {
        /// The full name of the import.
        import: String,
    },
    /// Built for another version of the contract.
    #[error(
        "built for {built_for}; this host speaks {}: rebuild the policy with the wit/sync.wit of \
         this host, or use a host that speaks that version",
        super::check::SPOKEN
    )]
    WrongVersion {
        /// The package and version, such as `edgestore:sync@1.0.0`.
        built_for: String,
    },
    /// Built for several versions of the contract, which never go together.
    #[error(
        "built for edgestore:sync@{one} and edgestore:sync@{other} at once; build all of the \
         policy with one wit/sync.wit"
    )]
    MixedVersions {
        /// One of them, such as `0.2`.
        one: &'static str,
        /// And another.
        other: &'static str,
    },
    /// Does not export the policy interface.
    #[error(
        "lacks the export {}; build the component against the world `sync-policy` of wit/sync.wit",
        super::check::EXPORT
    )]
    MissingExport,
    /// An import or export has another type than the contract says.
    #[error(
        "does not fit the contract: {0}; rebuild the policy with the wit/sync.wit of this host"
    )]
    Mismatch(String),
    /// `describe` trapped, called an import or took too long.
    #[error("`describe` failed: {0}; it must return at once and not call any import")]
    Describe(String),
    /// The component needs more memory than it may have.
    #[error("needs more than {limit} bytes of memory to start; raise limits.memory")]
    Memory {
        /// [`Limits::memory_bytes`](super::Limits::memory_bytes).
        limit: u64,
    },
    /// The component needs larger tables than it may have.
    #[error("needs more than {limit} table elements to start; raise limits.table-elements")]
    Table {
        /// [`Limits::table_elements`](super::Limits::table_elements).
        limit: usize,
    },
    /// The component is made of too many core instances.
    #[error("is made of more than {limit} core instances; raise limits.instances")]
    Instances {
        /// [`Limits::instances`](super::Limits::instances).
        limit: usize,
    },
    /// The component consists of components that start each other too often.
    #[error(
        "its components may start each other more than {limit} times; compose it of fewer \
         components, or link its modules before they become one"
    )]
    Nesting {
        /// How often they may.
        limit: u64,
    },
    /// The component has too many memories or tables.
    #[error("has {count} {what}, and may have {limit}; build it with fewer modules")]
    TooMany {
        /// `memories` or `tables`.
        what: &'static str,
        /// How many it has.
        count: u32,
        /// How many it may have.
        limit: u32,
    },
    /// `describe` returned a name or a version that can't be shown.
    #[error(
        "`describe` returned a bad {field}: it is {why}; make it 1 to {} bytes of printable text",
        super::check::NAME_BYTES
    )]
    Description {
        /// `name` or `version`.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// This machine can't run policies at all.
    #[error("can't set up WebAssembly on this system: {0}")]
    System(String),
}

impl LoadError {
    /// Whether the compiler did not come to an end within its limits.
    pub(super) fn is_limit_of_compiler(&self) -> bool {
        matches!(
            self,
            Self::CompileTime { .. } | Self::CompileMemory { .. } | Self::CompilerEnded(_)
        )
    }

    /// Whether it says something of the policy: as opposed to a file that can't be read, or a
    /// machine that runs none.
    pub fn is_answer(&self) -> bool {
        match self {
            Self::Io { .. } | Self::System(_) => false,
            Self::File { error, .. } => error.is_answer(),
            _ => true,
        }
    }
}

fn import_fix(import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        ": a policy has no WASI. Disable WASI in the toolchain: build Rust for \
         wasm32-unknown-unknown, JavaScript with componentize-js and all of \
         its `disableFeatures`, Python with `componentize-py --stub-wasi`"
    } else {
        ": import nothing but the interfaces of edgestore:sync"
    }
}

/// The settings of a policy are larger than [`Limits::settings_bytes`](super::Limits).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the settings of the policy have {bytes} bytes, keys and values together, and may have \
     {limit}; shorten them or raise limits.settings"
)]
pub struct SettingsTooLarge {
    /// What they have.
    pub bytes: usize,
    /// What they may have.
    pub limit: usize,
}

/// Why a tick failed. The host goes on in any case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TickError {
    /// The policy returned an error.
    #[error("{message}")]
    Policy {
        /// What the policy returned, with what the host knows of the cause.
        message: String,
        /// When it wants to be ticked next; none at the interval.
        next_tick: Option<Duration>,
        /// Whether the policy alone is the cause: the host told it of no failure of the kind, and
        /// gave it no settings but those that it has taken before.
        blame: bool,
    },
    /// The policy did not return in time.
    #[error("the tick took longer than {0:?}; if the policy needs more, raise limits.tick-timeout")]
    Timeout(Duration),
    /// The policy computed more than it may, in instructions, more or less.
    #[error("the policy ran more than {0} instructions; if it needs more, raise limits.fuel")]
    Fuel(u64),
    /// The policy wanted more memory than it may have, in bytes.
    #[error(
        "the policy wanted more than {0} bytes of memory; if it needs more, raise limits.memory"
    )]
    Memory(u64),
    /// The policy wanted larger tables than it may have, in elements.
    #[error(
        "the policy wanted more than {0} table elements; if it needs more, raise \
         limits.table-elements"
    )]
    Table(usize),
    /// The policy holds as many handles as it may.
    #[error(
        "the policy holds more than {0} handles; it must drop those it does not need, or you \
         raise limits.handles"
    )]
    Handles(usize),
    /// The policy called into the host as often as it may.
    #[error("the policy made more than {0} host calls; if it needs more, raise limits.host-calls")]
    HostCalls(u64),
    /// The user's settings are too large to be given to the policy.
    #[error(transparent)]
    Settings(#[from] SettingsTooLarge),
    /// The policy did something that ends a WebAssembly instance.
    #[error("the policy trapped: {0}")]
    Trap(String),
    /// This machine could not start the policy, which it did before.
    #[error("the policy did not start: {0}; is the machine out of memory?")]
    System(String),
    /// The host's own files failed, so that the tick could not go on.
    #[error("storage: {0}")]
    Storage(String),
    /// The peer was closed.
    #[error("the host is stopping")]
    Closed,
}

impl TickError {
    /// Whether only the policy can be the cause. What a peer, the disk or a shutdown may have
    /// caused is not held against it.
    pub fn blames_policy(&self) -> bool {
        match self {
            Self::Policy { blame, .. } => *blame,
            Self::Timeout(_)
            | Self::Fuel(_)
            | Self::Memory(_)
            | Self::Table(_)
            | Self::Handles(_)
            | Self::HostCalls(_)
            | Self::Trap(_) => true,
            Self::Settings(_) | Self::System(_) | Self::Storage(_) | Self::Closed => false,
        }
    }
}
