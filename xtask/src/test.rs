//! `test`: everything that can be checked, on this machine and in a guest.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::cmd::Cmd;
use crate::context::Context;
use crate::kernel::{self, Flavor};
use crate::qemu::{End, Outcome};
use crate::run::Machine;
use crate::{module, programs};

/// Arguments of `test`.
#[derive(clap::Args)]
#[command(after_help = "\
Here: rustfmt, clippy and unit tests of user space, formatting and clippy of the module. In a guest with the patched kernel:
the test suite, which fails as well when the kernel warns or nothing ends in time. The last line sums up both.")]
pub struct TestArgs {
    /// Only this half
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// How long the suite may take in the guest
    #[arg(long, value_name = "SECS", default_value_t = 900)]
    timeout: u64,
    #[command(flatten)]
    machine: Machine,
    /// Only tests of the suite whose name contains this
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
    let mut tally = Tally::default();
    if args.only != Some(Half::Guest) {
        host(ctx, &mut tally)?;
    }
    if args.only != Some(Half::Host) {
        guest(ctx, &args, &mut tally)?;
    }
    println!();
    match tally.skipped {
        0 => println!("{} passed, {} failed", tally.passed, tally.failed),
        skipped => println!("{} passed, {} failed, {skipped} skipped", tally.passed, tally.failed),
    }
    Ok(if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// User space is checked where it is built.
fn host(ctx: &Context, tally: &mut Tally) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let cargo = |arguments: &[&str]| Cmd::new(&cargo).args(arguments).dir(&ctx.root);

    let lints: [(&str, &[&str]); 2] = [
        ("fmt", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ];
    for (name, arguments) in lints {
        // A toolchain need not have them.
        if !cargo(&[name, "--version"]).succeeds() {
            tally.skip(&format!("user space: {name}"), "it is not installed");
            continue;
        }
        let step = ctx.ui.step(format!("check user space: {name}"));
        let result = cargo(arguments)
            .step(format!("cargo {name}"))
            .run(ctx, &format!("test-{name}"), |line| step.progress(line.trim()));
        step.done("");
        tally.count(&format!("user space: {name}"), result.map_err(|error| error.to_string()));
    }

    let step = ctx.ui.step("unit tests of user space");
    let mut units = Tally::default();
    let result = cargo(&["test", "--workspace", "--no-fail-fast"])
        .step("cargo test")
        .hint("the failed tests are named in the log")
        .run(ctx, "test-units", |line| {
            step.progress(line.trim());
            if let Some(result) = cargo_result(line) {
                units.add(result);
            }
            if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
                step.note(format!("FAILED {name}"));
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

/// The suite is checked in a guest.
fn guest(ctx: &Context, args: &TestArgs, tally: &mut Tally) -> Result<()> {
    let mut guest = args.machine.guest(ctx, Flavor::Patched, "test")?;
    if args.only.is_none() && args.machine.kernel_image.is_none() {
        lint(ctx, tally)?;
    }
    programs::add_children(ctx, &mut guest.payload)?;
    guest.payload.copy(&programs::suite(ctx)?, "/payload/guest-suite".as_ref())?;
    guest.argv = vec!["/payload/guest-suite".into()];
    guest.argv.extend(args.filter.clone());
    guest.timeout = Duration::from_secs(args.timeout);
    ctx.ui.note("==> test suite in the guest");
    let mut said = Vec::new();
    let outcome = guest.run(
        ctx,
        &mut |bytes| {
            said.extend_from_slice(bytes);
            io::stdout().write_all(bytes)
        },
        &mut |bytes| io::stderr().write_all(bytes),
        None,
    )?;
    let (suite, problem) = judge(&String::from_utf8_lossy(&said), &outcome);
    tally.add(suite);
    outcome.explain();
    tally.count("guest: the suite came to its end and the kernel stayed quiet", problem.map_or(Ok(()), Err));
    Ok(())
}

/// The module is checked with the kernel's own rules.
fn lint(ctx: &Context, tally: &mut Tally) -> Result<()> {
    let kernel = kernel::ensure(ctx, Flavor::Patched)?;
    let result = module::lint(ctx, &kernel);
    crate::interrupt::wait_if_interrupted();
    tally.count("module: rustfmt and clippy", result.map_err(|error| format!("{error:#}")));
    Ok(())
}

/// What the suite counted, and what is wrong beyond that.
fn judge(said: &str, outcome: &Outcome) -> (Tally, Option<String>) {
    let closing = said.lines().last().and_then(closing_line);
    let suite = closing.unwrap_or_else(|| Tally {
        // The suite did not get to the end; what it did get to counts.
        passed: said.lines().filter(|line| line.starts_with("ok ")).count() as u32,
        failed: said.lines().filter(|line| line.starts_with("FAILED ")).count() as u32,
        skipped: said.lines().filter(|line| line.starts_with("skipped ")).count() as u32,
    });
    let problem = match (&outcome.end, outcome.findings.first()) {
        (End::Crashed, _) => Some("the kernel crashed".to_owned()),
        (End::TimedOut(what), _) => Some(what.clone()),
        (End::Qemu(how), _) => Some(format!("QEMU {how}")),
        (End::Guest(why), _) => Some(why.clone()),
        (_, Some(finding)) => Some(format!("{}: {}", finding.kind, finding.line)),
        (End::Signaled(signal), _) => Some(format!("signal {signal} ended the suite")),
        (End::Exited(_), None) if closing.is_none() => Some("the suite did not sum up".to_owned()),
        (End::Exited(0), None) if suite.failed > 0 || suite.passed == 0 => {
            Some("the suite ended well, but by its count it did not".to_owned())
        }
        (End::Exited(status), None) if *status != 0 && suite.failed == 0 => {
            Some(format!("the suite counted no failure, but ended with status {status}"))
        }
        (End::Exited(_), None) => None,
    };
    (suite, problem)
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
        assert_eq!(judge(good, &outcome(End::Exited(0), &[])), (tally(2, 0, 0), None));
        assert!(judge(good, &outcome(End::Exited(0), &[Kind::Warning])).1.is_some());
        assert!(judge(good, &outcome(End::Exited(1), &[])).1.is_some());
        assert!(judge(good, &outcome(End::Crashed, &[])).1.is_some());
        assert!(judge("0 passed, 0 failed\n", &outcome(End::Exited(0), &[])).1.is_some());
    }

    #[test]
    fn a_suite_that_hangs_keeps_what_it_did() {
        let (count, problem) = judge("ok a\nFAILED b: no\n", &outcome(End::TimedOut("too slow".into()), &[]));
        assert_eq!(count, tally(1, 1, 0));
        assert_eq!(problem.as_deref(), Some("too slow"));
    }

    #[test]
    fn failures_that_were_counted_are_not_counted_again() {
        assert_eq!(judge("1 passed, 1 failed\n", &outcome(End::Exited(1), &[])), (tally(1, 1, 0), None));
    }
}
