//! `fuzz`: random calls in a guest, and whether they leave anything behind.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::kernel::Flavor;
use crate::programs;
use crate::qemu::{self, End, FOLDER, Outcome};
use crate::run::Machine;
use crate::ui::Lines;

/// What booting, counting and switching off may take beyond the calls.
const MARGIN: Duration = Duration::from_secs(300);

/// Arguments of `fuzz`.
#[derive(clap::Args)]
#[command(after_help = "\
Makes random calls of spawn_template_create and spawn_template_spawn, valid and invalid, as root and as a user, from one
thread and from several, some from processes that are killed meanwhile. Fails when a call's outcome is not what the
manual pages promise, when anything is left behind (processes, descriptors, mounts, kernel memory), and when the kernel
complains. The same seed gives the same calls; a failure names seed and call, for --replay.")]
pub struct FuzzArgs {
    /// On the debug kernel: KASAN, lockdep and more; what they and kmemleak find fails the run
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    amount: Amount,
    /// Make only the call with this index, and show it
    #[arg(long, value_name = "INDEX")]
    replay: Option<u64>,
    #[command(flatten)]
    machine: Machine,
}

/// How many calls, and which.
#[derive(clap::Args, Clone, Copy)]
pub struct Amount {
    /// At least so many calls
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    pub calls: u64,
    /// At least so many of them have to start a program
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub starts: u64,
    /// Where the random numbers come from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Fail when it takes longer
    #[arg(long, value_name = "SECS", default_value_t = 7200)]
    pub seconds: u64,
}

/// `fuzz`
pub fn main(ctx: &Context, args: FuzzArgs) -> Result<ExitCode> {
    let flavor = if args.debug { Flavor::Debug } else { Flavor::Patched };
    let problem = run(ctx, &args.machine, qemu::counts_instead(ctx, flavor)?, flavor, args.amount, args.replay)?;
    if let Some(problem) = problem {
        eprintln!("error: {problem}");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Boots a guest, whose clock counts instructions with `icount`, makes the calls and returns what is wrong. Shows what
/// the guest says.
pub fn run(
    ctx: &Context,
    machine: &Machine,
    icount: bool,
    flavor: Flavor,
    amount: Amount,
    replay: Option<u64>,
) -> Result<Option<String>> {
    let mut guest = machine.guest(ctx, flavor, "fuzz")?;
    guest.icount = icount;
    programs::add_children(ctx, &mut guest.payload)?;
    guest.payload.copy(&programs::fuzz(ctx)?, &Path::new(FOLDER).join("guest-fuzz"))?;
    guest.argv = vec![format!("{FOLDER}/guest-fuzz")];
    let options = [
        ("--calls", amount.calls),
        ("--starts", amount.starts),
        ("--seed", amount.seed),
        ("--seconds", amount.seconds),
    ];
    for (name, value) in options.into_iter().chain(replay.map(|index| ("--replay", index))) {
        guest.argv.extend([name.into(), value.to_string()]);
    }
    guest.timeout = Duration::from_secs(amount.seconds) + MARGIN;
    let ((), outcome) = qemu::run_unspoilt(ctx, || {
        let mut lines = Lines::default();
        guest
            .run(ctx, &mut |bytes| lines.push(bytes), &mut |bytes| io::stderr().write_all(bytes), None)
            .map(|outcome| ((), outcome))
    })?;
    outcome.explain();
    Ok(problem(&outcome, amount.seed))
}

/// What is wrong with how it ended.
fn problem(outcome: &Outcome, seed: u64) -> Option<String> {
    let what = match (&outcome.end, outcome.findings.first()) {
        (End::Crashed, _) => "the kernel crashed".to_owned(),
        (End::TimedOut(what), _) => what.clone(),
        (End::Qemu(how), _) => format!("QEMU {how}"),
        (End::Guest(why), _) => why.clone(),
        (_, Some(finding)) => format!("{}: {}", finding.kind, finding.line),
        (End::Signaled(signal), None) => format!("signal {signal} ended the program that makes the calls"),
        (End::Exited(0), None) => return None,
        (End::Exited(_), None) => "a call did what it should not, or left something behind".to_owned(),
    };
    Some(format!("{what} (seed {seed})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::{Finding, Kind};

    #[test]
    fn only_a_good_end_with_a_quiet_kernel_is_one() {
        let outcome = |end, kinds: &[Kind]| {
            let findings = kinds.iter().map(|&kind| Finding { kind, line: "line".into() }).collect();
            Outcome { end, findings, tail: Vec::new(), log: "log".into() }
        };
        assert_eq!(problem(&outcome(End::Exited(0), &[]), 7), None);
        for bad in [
            outcome(End::Exited(1), &[]),
            outcome(End::Exited(0), &[Kind::Warning]),
            outcome(End::Signaled(9), &[]),
            outcome(End::Crashed, &[]),
        ] {
            assert!(problem(&bad, 7).is_some_and(|problem| problem.contains("seed 7")));
        }
    }
}
