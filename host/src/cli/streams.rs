//! With which of its standard streams this program was started.
//!
//! Where one is closed the standard library opens the null device in its place before `main`, and
//! what is written is lost without an error. So this looks before that: the system runs the functions
//! that an executable lists in `.init_array` first of all
//! (<https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.dynamic.html#init_fini>).

/// Whether there is no standard input, or it can't be read.
pub(super) fn no_input() -> bool {
    at_start::is_missing(at_start::INPUT)
}

/// Whether there is no standard output, or it can't be written.
pub(super) fn no_output() -> bool {
    at_start::is_missing(at_start::OUTPUT)
}

#[cfg(target_os = "linux")]
mod at_start {
    use std::sync::atomic::{AtomicI32, Ordering};

    pub(super) const INPUT: i32 = libc::STDIN_FILENO;
    pub(super) const OUTPUT: i32 = libc::STDOUT_FILENO;

    /// The flags of each, or what is no flags where it was closed.
    static FLAGS: [AtomicI32; 2] = [AtomicI32::new(libc::O_RDWR), AtomicI32::new(libc::O_RDWR)];
    const CLOSED: i32 = -1;

    extern "C" fn look() {
        for (stream, flags) in (INPUT..).zip(&FLAGS) {
            // SAFETY: This reads the flags of a descriptor, and fails where there is none.
            #[expect(unsafe_code, reason = "the standard library does not work before main")]
            let now = unsafe { libc::fcntl(stream, libc::F_GETFL) };
            flags.store(now, Ordering::Relaxed);
        }
    }

    // SAFETY: The function has the type that the system calls, and uses nothing of the standard
    // library that `main` prepares.
    #[expect(unsafe_code, reason = "the only way to run before main")]
    #[used]
    #[unsafe(link_section = ".init_array")]
    static LOOK: extern "C" fn() = look;

    pub(super) fn is_missing(stream: i32) -> bool {
        let unusable = if stream == INPUT { libc::O_WRONLY } else { libc::O_RDONLY };
        let flags = FLAGS[usize::from(stream == OUTPUT)].load(Ordering::Relaxed);
        flags == CLOSED || flags & libc::O_ACCMODE == unusable
    }
}

#[cfg(not(target_os = "linux"))]
mod at_start {
    pub(super) const INPUT: i32 = 0;
    pub(super) const OUTPUT: i32 = 1;

    pub(super) fn is_missing(_stream: i32) -> bool {
        false
    }
}
