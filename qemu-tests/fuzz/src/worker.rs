//! A process that makes some of the calls.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::arena::Arena;
use crate::call;
use crate::check::{self, Caller, Totals};
use crate::rng::Rng;
use crate::sys;
use crate::world::{CHILDREN, Kind, USER, World};

/// How many threads share a worker of that kind.
const THREADS: u64 = 4;

/// What a worker tells who started it.
pub struct Slot {
    /// The next call, counted up before each one.
    pub next: AtomicU64,
    /// Not 0 once everything is open and calls begin.
    pub is_ready: AtomicU64,
    /// Not 0 when it has done all of its work.
    pub is_done: AtomicU64,
}

/// Some calls of a run.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Who makes them.
    pub kind: Kind,
    /// The first one.
    pub begin: u64,
    /// The one after the last.
    pub end: u64,
    /// After how many microseconds of calls the worker is cut off, if its kind is.
    pub delay: u64,
}

/// What is the same for all workers.
#[derive(Clone, Copy)]
pub struct Settings {
    /// Where all random numbers come from.
    pub seed: u64,
    /// How many seconds a child may take to end.
    pub patience: u64,
    /// How long a template is left alone that comes and goes.
    pub pause: Duration,
    /// Whether to show each call.
    pub verbose: bool,
}

/// Does the work, in a process of its own. Returns its exit status.
pub fn main(settings: Settings, work: Work, number: usize, slot: &Slot, totals: &Totals) -> i32 {
    match run(settings, work, number, slot, totals) {
        Ok(()) => {
            slot.is_done.store(1, Relaxed);
            0
        }
        Err(reason) => {
            println!("FAILED {:?} worker, calls {} to {}: {reason}", work.kind, work.begin, work.end - 1);
            1
        }
    }
}

fn become_worker(kind: Kind) -> io::Result<()> {
    sys::block_sigchld(false)?;
    sys::setsid()?;
    sys::soft_limit(libc::RLIMIT_CORE, Some(0))?;
    if kind == Kind::User {
        sys::become_user(USER)?;
    }
    // Not before: a change of ids clears it.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
}

fn run(settings: Settings, work: Work, number: usize, slot: &Slot, totals: &Totals) -> Result<(), String> {
    become_worker(work.kind).map_err(|error| format!("cannot become a worker: {error}"))?;
    let before = sys::lowest_free().map_err(|error| error.to_string())?;
    let world = World::new(work.kind, number).map_err(|error| format!("cannot open everything: {error}"))?;
    let Settings { seed, patience, pause, verbose } = settings;
    let caller = Caller { world: &world, totals, patience, verbose };
    slot.is_ready.store(1, Relaxed);
    let is_over = AtomicBool::new(false);
    match work.kind {
        Kind::Threads => thread::scope(|scope| -> Result<(), String> {
            let disturber = scope.spawn(|| {
                while !is_over.load(Relaxed) {
                    world.disturb().map_err(|error| format!("cannot make a template again: {error}"))?;
                    thread::sleep(pause);
                }
                Ok::<(), String>(())
            });
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (caller, slot) = (&caller, &*slot);
                    let indices = (work.begin + thread..work.end).step_by(THREADS as usize);
                    scope.spawn(move || calls(caller, seed, indices, || _ = slot.next.fetch_add(1, Relaxed)))
                })
                .collect();
            let mut verdict = Ok(());
            for thread in threads {
                verdict = verdict.and(thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
            }
            is_over.store(true, Relaxed);
            verdict.and(disturber.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        })?,
        _ => {
            if matches!(work.kind, Kind::Execs | Kind::Exits) {
                thread::spawn(move || {
                    thread::sleep(Duration::from_micros(work.delay));
                    if work.kind == Kind::Execs {
                        sys::exec(&format!("{CHILDREN}/nothing"));
                    }
                    sys::exit(0);
                });
            }
            calls(&caller, seed, work.begin..work.end, || _ = slot.next.fetch_add(1, Relaxed))?;
        }
    }
    check::no_children(work.kind == Kind::Attacked)?;
    if let Some(reason) = world.miscounted().map_err(|error| error.to_string())? {
        return Err(reason);
    }
    drop(world);
    let after = sys::lowest_free().map_err(|error| error.to_string())?;
    if before != after {
        return Err(format!("the lowest unused descriptor was {before} at first and is {after} at last"));
    }
    Ok(())
}

/// Makes the calls with these indices.
fn calls(caller: &Caller<'_>, seed: u64, indices: impl Iterator<Item = u64>, begins: impl Fn()) -> Result<(), String> {
    let mut arena = Arena::new().map_err(|error| format!("no memory for arguments: {error}"))?;
    for index in indices {
        begins();
        let call = call::generate(&mut Rng::new(seed, index), &mut arena, caller.world);
        if caller.verbose {
            println!("{call:#x?}");
        }
        if let Err(reason) = caller.make(&call, &arena) {
            return Err(format!("call {index} with seed {seed}: {reason}\n{call:#x?}"));
        }
    }
    Ok(())
}
