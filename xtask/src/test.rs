//! `test`: everything that can be checked, on this machine and in a guest.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cmd::Cmd;
use crate::context::Context;
use crate::kernel::{self, Flavor};
use crate::qemu::{self, End, Guest, Outcome};
use crate::run::{Machine, half};
use crate::ui::Lines;
use crate::{fuzz, image, module, programs};

/// How long the tests may take in a guest, in seconds; and on the debug kernel.
const TIMEOUT: u64 = 2700;
const DEBUG_TIMEOUT: u64 = 5400;

/// With the tests that are repeated so often that they take that long.
const LONG_TIMEOUT: u64 = 4 * 3600;

/// Into how many boots the suite is divided, and how many guests run at the same time. A guest is busy on one of its
/// processors most of the time.
const SHARES: usize = 2;
const AT_ONCE: usize = 2;

/// What the debug kernel needs for more than its tests: booting, the last test, looking for leaks, switching off.
const DEBUG_MARGIN: Duration = Duration::from_secs(150);

/// With less time than this left for its tests, the debug kernel is not booted.
const DEBUG_LEAST: Duration = Duration::from_secs(60);

/// Tests with this in their names need Smack to be the guest's security module instead of AppArmor, and get a boot of
/// their own. The kernel's own order of modules stands in kernel.config.
const SMACK: &str = "smack";
const SMACK_ARGS: &str = "lsm=landlock,yama,smack,bpf";

/// Tests with this in their names need gdb and strace, and get a boot of their own from a disk that has them.
const DEBUGGERS: &str = "debuggers";

/// Tests with this in their names need a machine of two nodes, each with a processor and half of the memory, and get a
/// boot of their own.
const NUMA: &str = "numa";

/// A short run of `fuzz` goes with the tests; so many calls and programs started in so many seconds.
const FUZZ: fuzz::Amount = fuzz::Amount { calls: 3000, starts: 300, seed: 1, seconds: 600 };

/// With fewer seconds than this left for it, it is left out.
const FUZZ_LEAST: u64 = 300;

/// The filter that leaves only that.
const FUZZ_FILTER: &str = "fuzz";

/// Runs the tests of the crate and of the preload library and then the suite, with the filter if there is one. The
/// suite's come last because they unload the module. Large programs get one and the same layout: the emulator translates
/// them anew wherever it finds them, which takes twice as long as all else.
const SCRIPT: &str = r#"#!/bin/bash
shopt -s nullglob
status=0
# Where the time is limited, it goes to the suite.
if [ -n "$SPAWN_TEMPLATE_SECONDS" ]; then
    for program in /payload/{crate-tests/*,preload-tests/{compare*,programs*}}; do
        echo "test ${program#/payload/} ... ignored, the time is limited"
        echo "test result: ok. 0 passed; 0 failed; 1 ignored"
    done
else
    for program in /payload/crate-tests/*; do
        "$program" "$@" || status=1
    done
    for program in /payload/preload-tests/{compare*,programs*,hostile*}; do
        setarch -R "$program" "$@" || status=1
    done
fi
/payload/guest-suite --without=smack --without=debuggers --without=numa --share="$SPAWN_TEMPLATE_SHARE" "$@" || status=1
exit $status
"#;

/// What is repeated on the kernel that has the implementation built in: tests with one of these in their names.
const BUILTIN: [&str; 8] =
    ["spawn::", "create::", "naming::", "fields::", "identification::", "actions::", "errors::", "attack::"];

/// Arguments of `test`.
#[derive(clap::Args)]
#[command(after_help = "\
Here: rustfmt, clippy and unit tests of user space, formatting and clippy of the module, and that the configuration of
`patches check` compiles each C file of the series. In a guest with the patched
kernel: those tests of the crate that need the system calls (userspace-lib/tests/spawn*.rs), programs that nobody has
changed with the preload library, and the test suite, which fail as well when the kernel warns or nothing ends in time;
tests of Smack, tests with gdb and strace, tests on two NUMA nodes, and a few thousand random calls (`fuzz`) in boots of
their own; at last some of the suite on a kernel that has the implementation built in. The last line sums up everything.")]
pub struct TestArgs {
    /// Only this half
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// Only the guest's half, on the debug kernel: KASAN, lockdep and more; what they and kmemleak find fails the run
    #[arg(long, conflicts_with = "only")]
    debug: bool,
    /// At last the guest's half once more on the debug kernel, if that is built already and as far as SECS, counted
    /// from the start of the command, allow; what is left out is counted as skipped
    #[arg(long, value_name = "SECS", conflicts_with_all = ["only", "debug", "kernel_image"])]
    debug_within: Option<u64>,
    /// Make the 100 000 spawns of each test of an untouched file instead of 150
    #[arg(long)]
    long: bool,
    /// How long the tests may take in a guest [default: 2700, 5400 on the debug kernel, 14400 with --long]
    #[arg(long, value_name = "SECS")]
    timeout: Option<u64>,
    #[command(flatten)]
    machine: Machine,
    /// Only tests in the guest whose name contains this
    filter: Option<String>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Half {
    /// What runs on this machine
    Host,
    /// What runs in the guest
    Guest,
}

/// How many tests came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Counts something that is no test of its own framework, and says how it went.
    fn count(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                println!("ok {name}");
                self.passed += 1;
            }
            Err(reason) => {
                println!("FAILED {name}: {reason}");
                self.failed += 1;
            }
        }
    }

    fn skip(&mut self, name: &str, reason: &str) {
        println!("skipped {name}: {reason}");
        self.skipped += 1;
    }
}

/// `test`
pub fn main(ctx: &Context, args: TestArgs) -> Result<ExitCode> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    let (here, there) = match args.only {
        None => (!args.debug, true),
        Some(half) => (half == Half::Host, half == Half::Guest),
    };
    if here {
        host(ctx, &mut tally)?;
    }
    if there {
        let flavor = if args.debug { Flavor::Debug } else { Flavor::Patched };
        if here && args.machine.kernel_image.is_none() {
            lint(ctx, &mut tally)?;
            check_configuration(ctx, &mut tally);
        }
        guest(ctx, &args, flavor, None, &mut tally)?;
        if flavor == Flavor::Patched && args.filter.is_none() && args.machine.kernel_image.is_none() {
            builtin(ctx, &args, &mut tally)?;
        }
    }
    if let Some(seconds) = args.debug_within {
        debug_if_possible(ctx, &args, Duration::from_secs(seconds).saturating_sub(begun.elapsed()), &mut tally)?;
    }
    println!();
    match tally.skipped {
        0 => println!("{} passed, {} failed", tally.passed, tally.failed),
        skipped => println!("{} passed, {} failed, {skipped} skipped", tally.passed, tally.failed),
    }
    Ok(if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Some of the suite on the kernel that has the implementation built in, which is not built where time is short.
fn builtin(ctx: &Context, args: &TestArgs, tally: &mut Tally) -> Result<()> {
    let name = "guest with the implementation built in: the tests came to their end and the kernel stayed quiet";
    if args.debug_within.is_some() && !kernel::is_built(ctx, Flavor::Builtin)? {
        tally.skip(name, "it is not built; `cargo xtask test` without --debug-within builds it");
        return Ok(());
    }
    let mut guest = prepared(ctx, args, Flavor::Builtin, qemu::counts_instead(ctx, Flavor::Builtin)?, "test-builtin")?;
    for word in BUILTIN {
        if Cmd::new(programs::suite(ctx)?).args(["--list", word]).read()?.is_empty() {
            bail!("no test has {word} in its name");
        }
    }
    guest.argv = vec!["/payload/guest-suite".into(), format!("--without={SMACK}")];
    guest.argv.extend(BUILTIN.map(String::from));
    tally.add(boot(ctx, guest, None, name)?);
    Ok(())
}

/// The guest's half on the debug kernel, if that costs no build and no more than `left`.
fn debug_if_possible(ctx: &Context, args: &TestArgs, left: Duration, tally: &mut Tally) -> Result<()> {
    let name = "guest: the tests on the debug kernel";
    let time = left.saturating_sub(DEBUG_MARGIN);
    if !kernel::is_built(ctx, Flavor::Debug)? {
        tally.skip(name, "it is not built; `cargo xtask test --debug` builds it and runs them");
    } else if time < DEBUG_LEAST {
        tally.skip(
            name,
            &format!("{} s are left, which is too little; `cargo xtask test --debug` runs them", left.as_secs()),
        );
    } else {
        guest(ctx, args, Flavor::Debug, Some(time), tally)?;
    }
    Ok(())
}

/// User space is checked where it is built.
fn host(ctx: &Context, tally: &mut Tally) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cargo = |arguments: &[&str]| Cmd::new(&cargo).args(arguments).dir(&ctx.root);

    let lints: [(&str, &[&str]); 3] = [
        ("fmt", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
        ("doc", &["doc", "--workspace", "--all-features", "--no-deps"]),
    ];
    for (name, arguments) in lints {
        // A toolchain need not have them.
        if name != "doc" && !cargo(&[name, "--version"]).succeeds() {
            tally.skip(&format!("user space: {name}"), "it is not installed");
            continue;
        }
        let step = ctx.ui.step(format!("check user space: {name}"));
        let result = cargo(arguments).env("RUSTDOCFLAGS", "-D warnings").step(format!("cargo {name}")).run(
            ctx,
            &format!("test-{name}"),
            |line| step.progress(line.trim()),
        );
        step.done("");
        tally.count(&format!("user space: {name}"), result.map_err(|error| error.to_string()));
    }

    let step = ctx.ui.step("unit tests of user space");
    let mut units = Tally::default();
    let result = cargo(&["test", "--workspace", "--all-features", "--no-fail-fast"])
        .step("cargo test")
        .hint("the failed tests are named in the log")
        .run(ctx, "test-units", |line| {
            step.progress(line.trim());
            if let Some(result) = cargo_result(line) {
                units.add(result);
            }
            match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
                Some((name, "FAILED")) => step.note(format!("FAILED {name}")),
                Some((name, how)) if how.starts_with("ignored, ") => {
                    step.note(format!("skipped {name}: {}", &how["ignored, ".len()..]));
                }
                _ => {}
            }
        });
    step.done(format!("{} passed, {} failed", units.passed, units.failed));
    tally.add(units);
    // Failed tests are counted already; without one, it was the build.
    if let Err(error) = result {
        eprintln!("{error}");
        tally.failed += u32::from(units.failed == 0);
    }
    Ok(())
}

/// Reads cargo's `test result: ok. 5 passed; 0 failed; 1 ignored; …`.
fn cargo_result(line: &str) -> Option<Tally> {
    let counts = line.trim().strip_prefix("test result: ")?.split_once(". ")?.1;
    let count = |what: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok());
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

/// Everything that needs the system calls is checked in guests, two at a time where there are two processors. What would
/// begin after `time` is left out.
fn guest(ctx: &Context, args: &TestArgs, flavor: Flavor, time: Option<Duration>, tally: &mut Tally) -> Result<()> {
    let begun = Instant::now();
    let left = || time.map(|time| time.saturating_sub(begun.elapsed()));
    // Where seconds are counted, they have to be those of this machine.
    let icount = time.is_none() && qemu::counts_instead(ctx, flavor)?;
    let filter = args.filter.as_deref().unwrap_or("");
    let mut jobs: Vec<Job> = Vec::new();
    if ![SMACK, DEBUGGERS, NUMA].iter().any(|word| filter.contains(word)) && filter != FUZZ_FILTER {
        // Few tests do not gain by a second boot.
        let shares = if filter.is_empty() { SHARES } else { 1 };
        for share in 1..=shares {
            let mut guest = prepared(ctx, args, flavor, icount, &format!("test-{share}"))?;
            if share == 1 {
                guest.payload.copy(&programs::crate_tests(ctx)?, "/payload/crate-tests".as_ref())?;
            }
            // The share that has no other tests before its part of the suite, if there are several.
            if share == shares {
                guest.payload.copy(&programs::preload_tests(ctx)?, "/payload/preload-tests".as_ref())?;
            }
            guest.payload.text("/payload/run-tests", SCRIPT, 0o755);
            guest.env.insert("SPAWN_TEMPLATE_SHARE".into(), format!("{share}/{shares}"));
            guest.argv = vec!["/payload/run-tests".into()];
            guest.argv.extend(args.filter.clone());
            let share = if shares > 1 { format!(" {share} of {shares}") } else { String::new() };
            let name = format!("guest{share}: the tests came to their end and the kernel stayed quiet");
            jobs.push(Box::new(move || boot(ctx, guest, left(), &name)));
        }
    }
    // The suite is a static program, which can be asked here what it has.
    let suite = programs::suite(ctx)?;
    let has = |word: &str| -> Result<bool> {
        let listed = Cmd::new(&suite).args(["--list", word]).read()?;
        Ok((filter.is_empty() || filter.contains(word)) && listed.lines().any(|name| name.contains(filter)))
    };
    for (word, machine, what) in
        [(SMACK, with_smack as fn(&mut Guest), "with Smack"), (NUMA, with_two_nodes, "with two nodes")]
    {
        if !has(word)? {
            continue;
        }
        let mut guest = prepared(ctx, args, flavor, icount, &format!("test-{word}"))?;
        machine(&mut guest);
        guest.argv = vec!["/payload/guest-suite".into(), if filter.is_empty() { word } else { filter }.into()];
        let name = format!("guest {what}: the tests came to their end and the kernel stayed quiet");
        jobs.push(Box::new(move || boot(ctx, guest, left(), &name)));
    }
    if has(DEBUGGERS)? {
        match image::ensure_with_debuggers(ctx) {
            Ok(image) => {
                let mut guest = prepared(ctx, args, flavor, icount, "test-debuggers")?;
                guest.image = image;
                let wanted = if filter.is_empty() { DEBUGGERS } else { filter };
                guest.argv = vec!["/payload/guest-suite".into(), wanted.into()];
                let name = "guest with gdb and strace: the tests came to their end and the kernel stayed quiet";
                jobs.push(Box::new(move || boot(ctx, guest, left(), name)));
            }
            Err(error) => {
                crate::interrupt::wait_if_interrupted();
                ctx.ui.note(format!("{error:#}"));
                tally.skip("guest with gdb and strace", "left out: a disk with them cannot be made here, see above");
            }
        }
    }
    if filter.is_empty() || filter == FUZZ_FILTER {
        jobs.push(Box::new(move || random_calls(ctx, &args.machine, icount, flavor, left())));
    }
    ctx.ui.note(format!("==> tests in {} guest(s) with the {} kernel", jobs.len(), flavor.name()));
    let at_once = std::thread::available_parallelism().map_or(1, |n| n.get()).min(AT_ONCE);
    for result in side_by_side(jobs, at_once) {
        tally.add(result?);
    }
    Ok(())
}

/// Makes Smack the guest's security module.
fn with_smack(guest: &mut Guest) {
    guest.kernel_args = format!("{} {SMACK_ARGS}", guest.kernel_args);
}

/// Gives the guest two nodes.
fn with_two_nodes(guest: &mut Guest) {
    guest.smp = 2;
    // Processors of one package belong to one node.
    guest.qemu_args.extend(["-smp".into(), "2,sockets=2".into()]);
    let size = half(&guest.mem);
    for (node, name) in ["a", "b"].into_iter().enumerate() {
        guest.qemu_args.extend(["-object".into(), format!("memory-backend-ram,id={name},size={size}")]);
        guest.qemu_args.extend(["-numa".into(), format!("node,memdev={name},cpus={node}")]);
    }
}

/// A boot, and what its tests came to.
type Job<'a> = Box<dyn FnOnce() -> Result<Tally> + Send + 'a>;

/// Runs the jobs in their order, so many of them at once, and returns all results.
fn side_by_side(jobs: Vec<Job<'_>>, at_once: usize) -> Vec<Result<Tally>> {
    let jobs = Mutex::new(jobs.into_iter());
    let results = Mutex::new(Vec::new());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(job) = next() {
                    let result = job();
                    results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A guest with the suite and what it starts, still without a command.
fn prepared(ctx: &Context, args: &TestArgs, flavor: Flavor, icount: bool, name: &str) -> Result<Guest> {
    let mut guest = args.machine.guest(ctx, flavor, name)?;
    guest.icount = icount;
    programs::add_children(ctx, &mut guest.payload)?;
    guest.payload.copy(&programs::suite(ctx)?, "/payload/guest-suite".as_ref())?;
    // Without it, the crate's tests pass where the calls are missing.
    guest.env.insert("SPAWN_TEMPLATE_REQUIRED".into(), "1".into());
    let mut usual = TIMEOUT;
    if flavor == Flavor::Debug {
        usual = DEBUG_TIMEOUT;
    }
    if args.long {
        guest.env.insert("SPAWN_TEMPLATE_LONG".into(), "1".into());
        usual = LONG_TIMEOUT;
    }
    guest.timeout = Duration::from_secs(args.timeout.unwrap_or(usual));
    Ok(guest)
}

/// Boots, shows what the tests say and counts it. Tests that would begin after `time` are left out.
fn boot(ctx: &Context, mut guest: Guest, time: Option<Duration>, name: &str) -> Result<Tally> {
    let begun = Instant::now();
    let usual = guest.timeout;
    let (said, outcome) = qemu::run_unspoilt(ctx, || {
        if let Some(time) = time.map(|time| time.saturating_sub(begun.elapsed())) {
            guest.env.insert("SPAWN_TEMPLATE_SECONDS".into(), time.as_secs().to_string());
            guest.timeout = usual.min(time + DEBUG_MARGIN);
        }
        let (mut said, mut lines) = (Vec::new(), Lines::default());
        let outcome = guest.run(
            ctx,
            &mut |bytes| {
                said.extend_from_slice(bytes);
                lines.push(bytes)
            },
            &mut |bytes| io::stderr().write_all(bytes),
            None,
        )?;
        Ok((said, outcome))
    })?;
    let (mut count, problem) = judge(&String::from_utf8_lossy(&said), &outcome, time.is_some());
    outcome.explain();
    match problem {
        Some(why) if time.is_some() && only_slow(&outcome, &count) => {
            count.skip(name, &format!("{why}; `cargo xtask test --debug` has more time"));
        }
        problem => count.count(name, problem.map_or(Ok(()), Err)),
    }
    Ok(count)
}

/// A short run of `fuzz`.
fn random_calls(
    ctx: &Context,
    machine: &Machine,
    icount: bool,
    flavor: Flavor,
    time: Option<Duration>,
) -> Result<Tally> {
    let name = "guest: random calls ended well and left nothing behind";
    let mut tally = Tally::default();
    let left = time.map_or(FUZZ.seconds, |time| time.as_secs());
    if left < FUZZ_LEAST {
        tally.skip(name, &format!("{left} s are left, which is too little; `cargo xtask fuzz` makes them"));
    } else {
        let amount = fuzz::Amount { seconds: left.min(FUZZ.seconds), ..FUZZ };
        let problem = fuzz::run(ctx, machine, icount, flavor, amount, None)?;
        tally.count(name, problem.map_or(Ok(()), Err));
    }
    Ok(tally)
}

/// The module is checked with the kernel's own rules.
fn lint(ctx: &Context, tally: &mut Tally) -> Result<()> {
    let kernel = kernel::ensure(ctx, Flavor::Patched)?;
    let result = module::lint(ctx, &kernel);
    crate::interrupt::wait_if_interrupted();
    tally.count("module: rustfmt and clippy", result.map_err(|error| format!("{error:#}")));
    Ok(())
}

/// `patches check` can compile each C file of the series; that it does takes it half an hour.
fn check_configuration(ctx: &Context, tally: &mut Tally) {
    let result = match kernel::not_compiled(ctx) {
        Ok(missing) if missing.is_empty() => Ok(()),
        Ok(missing) => Err(kernel::missing_options(&missing)),
        Err(error) => Err(format!("{error:#}")),
    };
    crate::interrupt::wait_if_interrupted();
    tally.count("patches: check.config compiles each C file", result);
    let result = match kernel::tables_without_numbers(ctx) {
        Ok(missing) if missing.is_empty() => Ok(()),
        Ok(missing) => Err(format!("{missing:?} lack the calls")),
        Err(error) => Err(format!("{error:#}")),
    };
    tally.count("patches: each architecture has the numbers of the calls", result);
}

/// What the tests counted, and what is wrong beyond that. With `limited` time, all of them may have been left out.
fn judge(said: &str, outcome: &Outcome, limited: bool) -> (Tally, Option<String>) {
    let mut count = Tally::default();
    said.lines().filter_map(cargo_result).for_each(|tests| count.add(tests));
    let closing = said.lines().last().and_then(closing_line);
    count.add(closing.unwrap_or_else(|| Tally {
        // The suite did not get to the end; what it did get to counts.
        passed: said.lines().filter(|line| line.starts_with("ok ")).count() as u32,
        failed: said.lines().filter(|line| line.starts_with("FAILED ")).count() as u32,
        skipped: said.lines().filter(|line| line.starts_with("skipped ")).count() as u32,
    }));
    let left_out = if limited { count.skipped } else { 0 };
    let problem = match (&outcome.end, outcome.findings.first()) {
        (End::Crashed, _) => Some("the kernel crashed".to_owned()),
        (End::TimedOut(what), _) => Some(what.clone()),
        (End::Qemu(how), _) => Some(format!("QEMU {how}")),
        (End::Guest(why), _) => Some(why.clone()),
        (_, Some(finding)) => Some(format!("{}: {}", finding.kind, finding.line)),
        (End::Signaled(signal), _) => Some(format!("signal {signal} ended the tests")),
        (End::Exited(_), None) if closing.is_none() => Some("the suite did not sum up".to_owned()),
        (End::Exited(0), None) if count.failed > 0 || count.passed + left_out == 0 => {
            Some("the tests ended well, but by their count they did not".to_owned())
        }
        (End::Exited(status), None) if *status != 0 && count.failed == 0 => {
            Some(format!("the tests counted no failure, but ended with status {status}"))
        }
        (End::Exited(_), None) => None,
    };
    (count, problem)
}

/// Whether nothing is wrong that anyone has seen but that the time was up. A host may be so slow that the debug kernel
/// does not even boot in the time that is left; what hangs there and nowhere else is for a run without a limit to find.
fn only_slow(outcome: &Outcome, count: &Tally) -> bool {
    matches!(outcome.end, End::TimedOut(_)) && outcome.findings.is_empty() && count.failed == 0
}

/// Reads the suite's `N passed, N failed`, or the same with `, N skipped`.
fn closing_line(line: &str) -> Option<Tally> {
    let mut counts = line.trim().split(", ").map(|part| part.split_once(' '));
    let mut count = |what: &str| match counts.next() {
        Some(Some((number, word))) if word == what => number.parse().ok(),
        _ => None,
    };
    let (passed, failed) = (count("passed")?, count("failed")?);
    Some(Tally { passed, failed, skipped: count("skipped").unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::{Finding, Kind};

    fn tally(passed: u32, failed: u32, skipped: u32) -> Tally {
        Tally { passed, failed, skipped }
    }

    fn outcome(end: End, findings: &[Kind]) -> Outcome {
        let findings = findings.iter().map(|&kind| Finding { kind, line: "line".into() }).collect();
        Outcome { end, findings, tail: Vec::new(), log: "log".into() }
    }

    #[test]
    fn cargos_summary_is_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(cargo_result(line), Some(tally(12, 0, 1)));
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(cargo_result(line), Some(tally(1, 2, 0)));
        assert_eq!(cargo_result("test one::two ... ok"), None);
    }

    #[test]
    fn the_suites_summary_is_read() {
        assert_eq!(closing_line("90 passed, 0 failed"), Some(tally(90, 0, 0)));
        assert_eq!(closing_line("90 passed, 1 failed, 2 skipped"), Some(tally(90, 1, 2)));
        assert_eq!(closing_line("ok spawn::true"), None);
        assert_eq!(closing_line("90 passed"), None);
    }

    #[test]
    fn a_suite_that_says_it_passed_is_not_believed_alone() {
        let good = "ok a\nok b\n2 passed, 0 failed\n";
        assert_eq!(judge(good, &outcome(End::Exited(0), &[]), false), (tally(2, 0, 0), None));
        assert!(judge(good, &outcome(End::Exited(0), &[Kind::Warning]), false).1.is_some());
        assert!(judge(good, &outcome(End::Exited(1), &[]), false).1.is_some());
        assert!(judge(good, &outcome(End::Crashed, &[]), false).1.is_some());
        assert!(judge("0 passed, 0 failed\n", &outcome(End::Exited(0), &[]), false).1.is_some());
    }

    #[test]
    fn tests_may_all_be_left_out_for_want_of_time_alone() {
        let said = "skipped a: the time is up\n0 passed, 0 failed, 1 skipped\n";
        assert_eq!(judge(said, &outcome(End::Exited(0), &[]), true), (tally(0, 0, 1), None));
        assert!(judge(said, &outcome(End::Exited(0), &[]), false).1.is_some());
        assert!(judge("0 passed, 0 failed\n", &outcome(End::Exited(0), &[]), true).1.is_some());
    }

    #[test]
    fn a_suite_that_hangs_keeps_what_it_did() {
        let (count, problem) = judge("ok a\nFAILED b: no\n", &outcome(End::TimedOut("too slow".into()), &[]), false);
        assert_eq!(count, tally(1, 1, 0));
        assert_eq!(problem.as_deref(), Some("too slow"));
    }

    #[test]
    fn a_slow_host_is_told_from_a_failure() {
        let slow = || End::TimedOut("it did not boot".into());
        assert!(only_slow(&outcome(slow(), &[]), &tally(3, 0, 0)));
        assert!(!only_slow(&outcome(slow(), &[]), &tally(3, 1, 0)));
        assert!(!only_slow(&outcome(slow(), &[Kind::Warning]), &tally(3, 0, 0)));
        assert!(!only_slow(&outcome(End::Crashed, &[]), &tally(3, 0, 0)));
    }

    #[test]
    fn the_crates_tests_are_counted_with_the_suites() {
        let said = "test a ... ok\n\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                    ok a\n1 passed, 0 failed, 1 skipped\n";
        assert_eq!(judge(said, &outcome(End::Exited(0), &[]), false), (tally(3, 0, 1), None));
        // One of the crate's programs died before it could count.
        assert!(judge(said, &outcome(End::Exited(1), &[]), false).1.is_some());
    }

    #[test]
    fn failures_that_were_counted_are_not_counted_again() {
        assert_eq!(judge("1 passed, 1 failed\n", &outcome(End::Exited(1), &[]), false), (tally(1, 1, 0), None));
    }
}
