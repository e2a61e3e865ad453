//! Several threads of one process that start programs at the same time: from one template, from one template each, and
//! with `posix_spawn()`.

use std::error::Error;
use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::methods::{Method, Program};
use crate::stats::{self, Random};
use crate::{Options, print_line};

/// How many threads start programs.
const CALLERS: [usize; 3] = [1, 2, 4];

/// How many programs each of them starts and reaps, one after the other, in one sample. Waking the threads up is in the
/// sample too, so they must not be few.
const SPAWNS: usize = 16;

/// Samples of each way that do not count. They fill caches, and tell what a sample costs.
const WARM_UP: usize = 1;

/// A way is sampled so often, whatever it costs.
const FEWEST_SAMPLES: usize = 5;

/// What the threads call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `posix_spawn()`.
    PosixSpawn,
    /// `spawn_template_spawn()`, all with the same template.
    OneTemplate,
    /// `spawn_template_spawn()`, each with a template of its own, of the same program.
    OwnTemplates,
}

impl Way {
    const ALL: [Way; 3] = [Way::PosixSpawn, Way::OneTemplate, Way::OwnTemplates];

    fn name(self) -> &'static str {
        match self {
            Way::PosixSpawn => "posix_spawn",
            Way::OneTemplate => "one_template",
            Way::OwnTemplates => "own_templates",
        }
    }

    /// How caller number `caller` starts which program.
    fn call(self, programs: &[Program], caller: usize) -> io::Result<()> {
        match self {
            Way::PosixSpawn => programs[caller].run(Method::PosixSpawn),
            Way::OneTemplate => programs[0].run(Method::SpawnTemplate),
            Way::OwnTemplates => programs[caller].run(Method::SpawnTemplate),
        }
    }
}

/// Measures every way with every number of callers and every child.
pub fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    // One layout for all: see the tools. Where the samples are wall time under emulation they would show nothing else.
    // SAFETY: changes a flag of this process that only execs look at: its children's.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    for &child in &options.programs {
        let mut programs = Vec::new();
        for _ in 0..CALLERS.into_iter().max().unwrap_or(1) {
            programs.push(child.program(&options.children)?);
        }
        let ways = ways(&mut programs).map_err(|error| format!("making templates of {}: {error}", child.name))?;
        let mut expected = 0;
        for callers in CALLERS {
            let name = if callers == 1 { "1 caller".into() } else { format!("{callers} callers") };
            print_line(json!({ "type": "progress", "parent": name, "child": child.name }));
            for (&way, mut samples) in ways.iter().zip(samples(&ways, callers, &programs, options)?) {
                samples.sort_unstable();
                let by_template = if way == Way::PosixSpawn { 0 } else { samples.len() + WARM_UP };
                expected += (by_template * callers * SPAWNS) as u64;
                print_line(json!({
                    "type": "scaling",
                    "child": child.name,
                    "callers": callers,
                    "method": way.name(),
                    "n": samples.len(),
                    "p10": stats::percentile(&samples, 10),
                    "p50": stats::percentile(&samples, 50),
                    "p90": stats::percentile(&samples, 90),
                }));
            }
        }
        check(&programs, expected).map_err(|error| format!("{}: {error}", child.name))?;
    }
    Ok(())
}

/// Compares what the kernel has counted with the calls that were made by template.
fn check(programs: &[Program], expected: u64) -> Result<(), Box<dyn Error>> {
    let mut counted = 0;
    for program in programs {
        counted += program.template_spawns()?.unwrap_or(0);
    }
    if counted != expected {
        return Err(format!("{expected} spawns by template, but the kernel counted {counted}").into());
    }
    print_line(json!({ "type": "counted", "spawns": counted }));
    Ok(())
}

/// The ways this kernel has, after making the templates that they need.
fn ways(programs: &mut [Program]) -> Result<Vec<Way>, spawn_template::Error> {
    for program in programs {
        match program.make_template() {
            Err(error) if error.is_unsupported() => {
                print_line(json!({ "type": "missing", "method": Method::SpawnTemplate.name() }));
                return Ok(vec![Way::PosixSpawn]);
            }
            made => made?,
        }
    }
    Ok(Way::ALL.to_vec())
}

/// The samples of every way with so many callers, taken in turn.
fn samples(
    ways: &[Way],
    callers: usize,
    programs: &[Program],
    options: &Options,
) -> Result<Vec<Vec<u64>>, Box<dyn Error>> {
    let mut cost = 0;
    for &way in ways.iter().cycle().take(WARM_UP * ways.len()) {
        cost = cost.max(sample(way, callers, programs, options.settle)? * (callers * SPAWNS) as u64);
    }
    let rounds = stats::samples_within(options.budget, cost, FEWEST_SAMPLES, options.iterations);
    let mut samples: Vec<Vec<u64>> = ways.iter().map(|_| Vec::with_capacity(rounds)).collect();
    let mut order = Random::new();
    let mut turns: Vec<usize> = (0..ways.len()).collect();
    for _ in 0..rounds {
        order.shuffle(&mut turns);
        for &index in &turns {
            samples[index].push(sample(ways[index], callers, programs, options.settle)?);
        }
    }
    Ok(samples)
}

/// The time from when the first of the callers begins until the last one has reaped all it started, divided by the
/// number of programs started.
fn sample(way: Way, callers: usize, programs: &[Program], settle: Duration) -> Result<u64, Box<dyn Error>> {
    thread::sleep(settle);
    let barrier = Barrier::new(callers);
    let work = |caller: usize| {
        barrier.wait();
        let start = Instant::now();
        let result = (0..SPAWNS).try_for_each(|_| way.call(programs, caller));
        let end = Instant::now();
        // A thread's own end costs something as well, which is nobody's spawn.
        barrier.wait();
        result.map(|()| (start, end))
    };
    let results: io::Result<Vec<_>> = thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..callers).map(|caller| scope.spawn(move || work(caller))).collect();
        let panicked = |_| Err(io::Error::other("the caller panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    let times = results.map_err(|error| format!("{callers} callers, {}: {error}", way.name()))?;
    let start = times.iter().map(|(start, _)| *start).min();
    let end = times.iter().map(|(_, end)| *end).max();
    let elapsed = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
    Ok(u64::try_from(elapsed.as_nanos())? / (callers * SPAWNS) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_time_of_one_spawn() {
        let programs = ["/bin/true"; 4].map(|path| Program::new(path, &[]).unwrap());
        for callers in CALLERS {
            assert!(sample(Way::PosixSpawn, callers, &programs, Duration::ZERO).unwrap() > 0);
        }
    }

    #[test]
    fn failing_programs_are_noticed() {
        let programs = ["/bin/true", "/bin/false"].map(|path| Program::new(path, &[]).unwrap());
        assert!(sample(Way::PosixSpawn, 1, &programs, Duration::ZERO).is_ok());
        assert!(sample(Way::PosixSpawn, 2, &programs, Duration::ZERO).is_err());
        // Programs without a template.
        assert!(sample(Way::OwnTemplates, 1, &programs, Duration::ZERO).is_err());
    }
}
