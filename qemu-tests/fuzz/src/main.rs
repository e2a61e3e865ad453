//! Random calls of `spawn_template_create` and `spawn_template_spawn`, valid and invalid, and what they leave behind:
//! nothing.
//!
//! A call is a function of the seed and its index, so any of them can be made again alone. Workers make them: processes
//! of root and of an ordinary user, with one thread or several, some of which are killed, exec or exit in the middle of
//! a call, and some of which have children that another process opens, attaches to, stops, freezes and kills. After each call the outcome is held against what the interface promises, and at the end what the kernel holds
//! against what it held at the beginning. The last line says how it went, and the exit status is 0 if all was well.

mod actions;
mod arena;
mod attacker;
mod call;
mod check;
mod holdings;
mod rng;
mod sys;
mod worker;
mod world;

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use check::{STAGES, Totals};
use holdings::Holdings;
use rng::Rng;
use worker::{Settings, Slot, Work};
use world::Kind;

const USAGE: &str = "guest-fuzz [--seed N] [--calls N] [--starts N] [--seconds N] [--replay INDEX]";

/// How many workers live at the same time.
const WORKERS: usize = 2;

/// One batch of so many is made by a worker whose children are attacked.
const ATTACKED: u64 = 8;

/// How many calls a worker makes.
const BATCH: u64 = 200;

/// Random numbers that decide about a worker come from other streams than those of calls.
const WORKER_STREAMS: u64 = 1 << 48;

/// How many seconds a child may take to end, or a worker for a call; times SPAWN_TEMPLATE_SLOW.
const PATIENCE: u64 = 30;

/// What workers share with who starts them.
struct Shared {
    totals: Totals,
    slots: [Slot; WORKERS],
}

#[derive(Clone, Copy, Debug)]
struct Options {
    seed: u64,
    calls: u64,
    starts: u64,
    seconds: u64,
    replay: Option<u64>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { seed: 1, calls: 200_000, starts: 20_000, seconds: 0, replay: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        let value = value.ok_or_else(|| format!("{name} needs a number\nusage: {USAGE}"))?;
        match name.as_str() {
            "--seed" => options.seed = value,
            "--calls" => options.calls = value,
            "--starts" => options.starts = value,
            "--seconds" => options.seconds = value,
            "--replay" => options.replay = Some(value),
            _ => return Err(format!("{name} is no option\nusage: {USAGE}")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match options().and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("FAILED random calls: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let slow = std::env::var("SPAWN_TEMPLATE_SLOW").ok().and_then(|slow| slow.parse().ok()).unwrap_or(1);
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    println!("seed {}", options.seed);
    if !world::scratch_is_tmpfs().map_err(failed("/tmp"))? {
        return Err("/tmp has to be a tmpfs: this program is made for a guest of `cargo xtask fuzz`".into());
    }
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(failed("cannot adopt orphans"))?;
    sys::block_sigchld(true).map_err(failed("cannot block SIGCHLD"))?;
    let shared: &'static Shared = sys::shared().map_err(failed("no shared memory"))?;
    world::prepare(WORKERS).map_err(failed("cannot prepare the scratch folder"))?;
    let settings = Settings {
        seed: options.seed,
        patience: PATIENCE * slow,
        pause: Duration::from_millis(2 * slow),
        verbose: options.replay.is_some(),
    };
    let mut run = Run { options, settings, slow, shared, begun: Instant::now(), batch: 0, rest: VecDeque::new() };

    if let Some(index) = options.replay {
        let Work { kind, .. } = run.work(index / BATCH);
        run.rest.push_back(Work { kind, begin: index, end: index + 1, delay: 1_000_000 });
        run.until(|run| run.rest.is_empty())?;
        return world::remove(WORKERS).map_err(failed("cannot remove the scratch folder"));
    }

    // Caches fill up first.
    let warm = (options.calls / 10).clamp(200, 2000);
    run.until(|run| run.calls() >= warm)?;
    let before = Holdings::count(slow).map_err(failed("cannot count"))?;
    println!("before, after {} calls for a start: {}", run.calls(), before.summary());
    let (calls, starts) = (run.calls(), run.starts());
    run.until(|run| {
        let enough = run.calls() >= calls + options.calls && run.starts() >= starts + options.starts;
        enough || run.is_late()
    })?;
    let (calls, starts) = (run.calls() - calls, run.starts() - starts);
    run.show_totals();
    run.compare(&before, calls)?;
    world::remove(WORKERS).map_err(failed("cannot remove the scratch folder"))?;
    let attacks: u64 = shared.totals.attacks.iter().map(|count| count.load(Relaxed)).sum();
    let seconds = run.seconds();
    let summary =
        format!("{calls} calls, {starts} programs started, {attacks} attacks, {seconds} s, seed {}", options.seed);
    if calls < options.calls || starts < options.starts {
        return Err(format!("{} calls and {} starts were asked for: {summary}", options.calls, options.starts));
    }
    if shared.totals.attacks[attacker::STUCK].load(Relaxed) != 0 {
        return Err(format!("a child did not stop for its tracer: {summary}"));
    }
    if attacks == 0 {
        return Err(format!("nobody has attacked a child: {summary}"));
    }
    println!("ok random calls: {summary}; nothing is left behind");
    Ok(())
}

/// A worker that lives.
struct Worker {
    pid: libc::pid_t,
    slot: usize,
    work: Work,
    /// When it has last begun a call, and which one.
    progress: (Instant, u64),
    /// When to kill it, once its calls have begun.
    kill_at: Option<Instant>,
}

/// A run.
struct Run {
    options: Options,
    settings: Settings,
    slow: u64,
    shared: &'static Shared,
    begun: Instant,
    /// The next batch of calls.
    batch: u64,
    /// What workers that were cut off have left.
    rest: VecDeque<Work>,
}

impl Run {
    fn calls(&self) -> u64 {
        self.shared.totals.calls.load(Relaxed)
    }

    fn starts(&self) -> u64 {
        self.shared.totals.starts.load(Relaxed)
    }

    fn seconds(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    fn is_late(&self) -> bool {
        self.options.seconds != 0 && self.seconds() >= self.options.seconds
    }

    /// Who makes the calls of a batch.
    fn work(&self, batch: u64) -> Work {
        let mut rng = Rng::new(self.settings.seed, WORKER_STREAMS + batch);
        let kind = match rng.below(100) {
            // However short a run is, some of its children are attacked.
            _ if batch % ATTACKED == 1 => Kind::Attacked,
            0..50 => Kind::Root,
            50..76 => Kind::User,
            76..92 => Kind::Threads,
            92..96 => Kind::Killed,
            96..98 => Kind::Execs,
            _ => Kind::Exits,
        };
        let work = Work { kind, begin: batch * BATCH, end: (batch + 1) * BATCH, delay: 0 };
        Work { delay: self.delay(work), ..work }
    }

    /// When a worker is cut off that begins with this call. Opening everything again takes as long as some dozen calls.
    fn delay(&self, work: Work) -> u64 {
        Rng::new(self.settings.seed, 2 * WORKER_STREAMS + work.begin).below(300_000 * self.slow)
    }

    /// Has workers make calls until `is_enough`, and waits for all of them and all that they have left.
    fn until(&mut self, is_enough: impl Fn(&Run) -> bool) -> Result<(), String> {
        let mut workers: Vec<Worker> = Vec::new();
        let mut reported = Instant::now();
        let outcome = loop {
            let enough = is_enough(self);
            if enough && workers.is_empty() {
                break Ok(());
            }
            while !enough && workers.len() < WORKERS && (self.options.replay.is_none() || !self.rest.is_empty()) {
                match self.start(&workers) {
                    Ok(worker) => workers.push(worker),
                    Err(error) => return Err(format!("cannot start a worker: {error}")),
                }
            }
            let has_victim = workers.iter().any(|worker| worker.work.kind == Kind::Killed);
            sys::wait_for_sigchld(if has_victim { 2 * self.slow } else { 50 });
            if let Err(reason) = self.reap(&mut workers).and_then(|()| self.watch(&mut workers)) {
                break Err(reason);
            }
            if reported.elapsed() >= Duration::from_secs(5) {
                reported = Instant::now();
                println!("{} calls, {} programs started, {} s", self.calls(), self.starts(), self.seconds());
            }
        };
        for worker in &workers {
            sys::kill(worker.pid, libc::SIGKILL);
        }
        outcome.and(self.reap_orphans())
    }

    fn start(&mut self, workers: &[Worker]) -> io::Result<Worker> {
        let work = self.rest.pop_front().unwrap_or_else(|| {
            let work = self.work(self.batch);
            self.batch += 1;
            work
        });
        let slot = (0..WORKERS).find(|slot| workers.iter().all(|worker| worker.slot != *slot)).unwrap_or(0);
        let state = &self.shared.slots[slot];
        state.next.store(work.begin, Relaxed);
        state.is_ready.store(0, Relaxed);
        state.is_done.store(0, Relaxed);
        let pid = sys::fork()?;
        if pid == 0 {
            sys::exit(worker::main(self.settings, work, slot, state, &self.shared.totals));
        }
        // It ends by itself when the worker has, and is reaped as an orphan.
        if work.kind == Kind::Attacked && sys::fork()? == 0 {
            let rng = Rng::new(self.settings.seed, 3 * WORKER_STREAMS + work.begin);
            sys::exit(attacker::main(pid, slot, rng, &self.shared.totals.attacks));
        }
        Ok(Worker { pid, slot, work, progress: (Instant::now(), work.begin), kill_at: None })
    }

    /// Takes note of what has ended. What is no worker is an orphan that a worker has left which was cut off: others
    /// make sure themselves that they have no children.
    fn reap(&mut self, workers: &mut Vec<Worker>) -> Result<(), String> {
        while let Ok(Some(ended)) = sys::reap_any() {
            let Some(position) = workers.iter().position(|worker| worker.pid == ended.pid) else { continue };
            let Worker { slot, work, .. } = workers.swap_remove(position);
            world::remove_corrupt(ended.pid as u32)
                .map_err(|error| format!("cannot remove what a worker has left: {error}"))?;
            let state = &self.shared.slots[slot];
            if state.is_done.load(Relaxed) != 0 {
                continue;
            }
            let usual = if work.kind == Kind::Killed { -libc::SIGKILL } else { 0 };
            if !work.kind.is_cut_off() || ended.status != usual {
                return Err(format!("a worker ended with {}: {work:?}", ended.status));
            }
            // The call that was under way will not be made again.
            let begin = state.next.load(Relaxed);
            if begin < work.end {
                let rest = Work { begin, ..work };
                self.rest.push_back(Work { delay: self.delay(rest), ..rest });
            }
        }
        Ok(())
    }

    /// Kills the chosen ones, and finds who is stuck.
    fn watch(&self, workers: &mut [Worker]) -> Result<(), String> {
        for worker in workers {
            let state = &self.shared.slots[worker.slot];
            let next = state.next.load(Relaxed);
            if next != worker.progress.1 {
                worker.progress = (Instant::now(), next);
            }
            if worker.progress.0.elapsed() > Duration::from_secs(2 * self.settings.patience) {
                sys::kill(worker.pid, libc::SIGKILL);
                return Err(format!("a worker is stuck at call {}: {:?}", next.saturating_sub(1), worker.work));
            }
            if worker.work.kind == Kind::Killed && state.is_ready.load(Relaxed) != 0 {
                let delay = Duration::from_micros(worker.work.delay);
                let kill_at = *worker.kill_at.get_or_insert_with(|| Instant::now() + delay);
                if Instant::now() >= kill_at {
                    sys::kill(worker.pid, libc::SIGKILL);
                }
            }
        }
        Ok(())
    }

    /// Waits for what killed workers have left: children that did start, and end by themselves.
    fn reap_orphans(&self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            match sys::reap_any() {
                Err(_) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) if begun.elapsed() > Duration::from_secs(self.settings.patience) => {
                    let left = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
                    return Err(format!("a child has outlived the caller that was killed: {left}"));
                }
                Ok(None) => sys::wait_for_sigchld(50),
            }
        }
    }

    /// Holds what the kernel has now against what it had.
    fn compare(&self, before: &Holdings, calls: u64) -> Result<(), String> {
        let mut differences = Vec::new();
        // Much is freed a little later, after an RCU grace period.
        for _ in 0..40 {
            let after = Holdings::count(self.slow).map_err(|error| format!("cannot count: {error}"))?;
            differences = before.differences(&after, calls);
            if differences.is_empty() {
                println!("after: {}", after.summary());
                println!("grown: {}", before.grown(&after));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(250 * self.slow));
        }
        Err(format!("after {calls} calls with seed {}: {}", self.settings.seed, differences.join("; ")))
    }

    fn show_totals(&self) {
        let totals = &self.shared.totals;
        let stages: Vec<String> =
            STAGES.iter().zip(&totals.stages).map(|(name, count)| format!("{name} {}", count.load(Relaxed))).collect();
        let errors: Vec<String> = totals
            .errors
            .iter()
            .enumerate()
            .filter(|(_, count)| count.load(Relaxed) != 0)
            .map(|(error, count)| format!("{error}: {}", count.load(Relaxed)))
            .collect();
        println!("templates made: {}; spawns by stage: {}", totals.templates.load(Relaxed), stages.join(", "));
        println!("failed calls by errno: {}", errors.join(", "));
        let attacks: Vec<String> = attacker::NAMES
            .iter()
            .zip(&totals.attacks)
            .map(|(name, count)| format!("{name} {}", count.load(Relaxed)))
            .collect();
        println!("children attacked: {}", attacks.join(", "));
    }
}
