//! Return addresses of another thread of this process. The one place of this crate with `unsafe`.

use std::{
    io,
    ptr::null_mut,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::thread::Pid;

/// Frames that are kept of a stack, the innermost.
const MAX_FRAMES: usize = 192;
/// How long a thread may take to answer. One that runs answers in microseconds; one that waits for a processor, when it has one.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the thread that is asked writes to. It is the only one that does, between `ASKED` and `DONE`.
struct Desk {
    /// One of the states below, and above it, by 8 bits, the number of the thread that is asked.
    state: AtomicU64,
    frames: [AtomicUsize; MAX_FRAMES],
    len: AtomicUsize,
    /// Where the thread was when the signal came; the frames before this one are the handler's.
    interrupted: AtomicUsize,
}

const IDLE: u64 = 0;
const ASKED: u64 = 1;
const WRITING: u64 = 2;
const DONE: u64 = 3;

/// That of a state in which this thread is asked.
fn of(thread: i32, state: u64) -> u64 {
    u64::from(thread.unsigned_abs()) << 8 | state
}

/// Which of the states it is, whoever is asked.
fn kind(state: u64) -> u64 {
    state & 0xff
}

static DESK: Desk = Desk {
    state: AtomicU64::new(IDLE),
    frames: [const { AtomicUsize::new(0) }; MAX_FRAMES],
    len: AtomicUsize::new(0),
    interrupted: AtomicUsize::new(0),
};
static TURN: Mutex<()> = Mutex::new(());
/// What came of it: 0, or the error's number.
static INSTALLED: OnceLock<i32> = OnceLock::new();

/// One caller's turn.
pub(crate) struct Capture {
    _turn: MutexGuard<'static, ()>,
    /// A thread is writing still that was given up: nobody else may be asked.
    stuck: bool,
}

impl Capture {
    pub(crate) fn begin() -> io::Result<Capture> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match INSTALLED.get_or_init(|| install().err().map_or(0, |error| error.raw_os_error().unwrap_or(-1)))
        {
            0 => Ok(Capture { _turn: turn, stuck: kind(DESK.state.load(Ordering::Acquire)) == WRITING }),
            number => Err(io::Error::from_raw_os_error(*number)),
        }
    }

    /// Where `thread` is, and the return addresses from there outwards, or why there are none.
    pub(crate) fn of(&mut self, thread: Pid) -> Result<Vec<usize>, String> {
        if self.stuck {
            return Err("another thread does not finish to note its stack down".to_owned());
        }
        let number = thread.as_raw_nonzero().get();
        DESK.len.store(0, Ordering::Relaxed);
        DESK.state.store(of(number, ASKED), Ordering::Release);
        // SAFETY: `tgkill` takes three numbers and touches no memory of ours.
        let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, signal()) };
        if sent != 0 {
            let error = io::Error::last_os_error();
            DESK.state.store(IDLE, Ordering::Release);
            return Err(format!("it could not be asked: {error}"));
        }
        let asked = Instant::now();
        loop {
            match kind(DESK.state.load(Ordering::Acquire)) {
                DONE => break,
                WRITING if asked.elapsed() > 2 * PATIENCE => {
                    // It may write at any time still: nobody else may.
                    self.stuck = true;
                    return Err("it does not finish to note its stack down".to_owned());
                }
                ASKED if asked.elapsed() > PATIENCE => {
                    let asked = of(number, ASKED);
                    let taken_back =
                        DESK.state.compare_exchange(asked, IDLE, Ordering::AcqRel, Ordering::Acquire);
                    if taken_back.is_ok() {
                        return Err("it does not answer".to_owned());
                    }
                }
                _ => std::thread::sleep(Duration::from_micros(50)),
            }
        }
        let len = DESK.len.load(Ordering::Relaxed).min(MAX_FRAMES);
        let frames = DESK.frames.iter().take(len).map(|frame| frame.load(Ordering::Relaxed));
        let mut frames: Vec<usize> = frames.collect();
        let interrupted = DESK.interrupted.load(Ordering::Relaxed);
        DESK.state.store(IDLE, Ordering::Release);
        if let Some(own) = frames.iter().position(|address| *address == interrupted) {
            frames.drain(..own);
        }
        Ok(frames)
    }
}

/// A signal that nobody else uses: the runtimes and libraries that we know take none of the real-time ones but the first few.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 11
}

fn install() -> io::Result<()> {
    // What an unwinder does the first time only, it does here, and not in a signal's handler.
    backtrace::trace(|_| true);
    // SAFETY: the action is zeroed (a valid value), its handler touches atomics and the unwinder only, and both pointers are
    // good for the call.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = note_down;
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART | libc::SA_SIGINFO;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(signal(), &action, null_mut())
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs on the thread that is asked, wherever that is: no locks, no allocation.
extern "C" fn note_down(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the address of the thread's own error number is always good.
    let errno = unsafe { *libc::__errno_location() };
    let me = rustix::thread::gettid().as_raw_nonzero().get();
    let (asked, writing) = (of(me, ASKED), of(me, WRITING));
    if DESK.state.compare_exchange(asked, writing, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        let mut len = 0;
        // SAFETY: nobody else unwinds into the desk; the unwinder reads the stack, and tables that are found without a lock
        // (glibc 2.35 and later).
        unsafe {
            backtrace::trace_unsynchronized(|frame| {
                if let Some(place) = DESK.frames.get(len) {
                    place.store(frame.ip() as usize, Ordering::Relaxed);
                    len += 1;
                }
                len < MAX_FRAMES
            });
        }
        DESK.len.store(len, Ordering::Relaxed);
        // SAFETY: the kernel hands its handler the context that it interrupted.
        let interrupted = unsafe { interrupted_at(context.cast::<libc::ucontext_t>()) };
        DESK.interrupted.store(interrupted, Ordering::Relaxed);
        DESK.state.store(of(me, DONE), Ordering::Release);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// # Safety
///
/// `context` is what the kernel handed to a signal's handler.
unsafe fn interrupted_at(context: *const libc::ucontext_t) -> usize {
    // SAFETY: it points to a whole context, says the caller.
    let machine = unsafe { &(*context).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    return machine.gregs[libc::REG_RIP as usize] as usize;
    #[cfg(target_arch = "aarch64")]
    return machine.pc as usize;
}
