//! What a boot measures, and for how long.

use super::report::{FIRST_USE, PARENTS, SPAWN_TEMPLATE_PID, Unit};
use super::{BenchArgs, SETTLE, scaling, sizes, tools};
use crate::qemu::FOLDER;
use crate::run::Machine;

/// What a boot measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Every method with every child and parent.
    Latency,
    /// Every method over the parent's memory.
    Sizes,
    /// Several callers.
    Scaling,
    /// Short tools.
    Tools,
}

impl Subject {
    /// What is shown while it is measured.
    pub fn name(self) -> &'static str {
        match self {
            Subject::Latency => "latencies",
            Subject::Sizes => "callers of several sizes",
            Subject::Scaling => "several callers at a time",
            Subject::Tools => "short tools",
        }
    }

    /// How many processors the guest has. What is counted in instructions is counted on one.
    pub fn processors(self, unit: Unit) -> u32 {
        match (self, unit) {
            (Subject::Tools, Unit::Ns) => tools::MOST_IN_FLIGHT,
            (Subject::Scaling, Unit::Ns) => scaling::PROCESSORS,
            _ => 1,
        }
    }
}

/// What is measured, and for how long.
pub struct Plan {
    subject: Subject,
    unit: Unit,
    methods: Option<String>,
    /// Whether one parent will do.
    first_use: bool,
    /// Whether children that take page faults are measured as well.
    faults: bool,
    iterations: u32,
    /// What the samples of one method with one child and one parent may cost together, in the unit of the results.
    budget: u64,
}

impl Plan {
    /// What a run with these arguments does.
    pub fn new(args: &BenchArgs, unit: Unit, subject: Subject) -> Self {
        // Instructions hardly vary, wall time does.
        let (iterations, budget) = match (subject, unit, args.quick) {
            // A sample is some dozen spawns.
            (Subject::Scaling, Unit::Instructions, false) => (11, 600_000_000),
            (Subject::Scaling, Unit::Instructions, true) => (5, 200_000_000),
            (Subject::Scaling, Unit::Ns, false) => (31, 3_000_000_000),
            (Subject::Scaling, Unit::Ns, true) => (7, 500_000_000),
            // The curve's points are decades apart.
            (Subject::Sizes, Unit::Instructions, _) => (15, 20_000_000),
            (Subject::Sizes, Unit::Ns, _) => (50, 60_000_000),
            (_, Unit::Instructions, false) => (100, 120_000_000),
            (_, Unit::Instructions, true) => (15, 20_000_000),
            (_, Unit::Ns, false) => (500, 600_000_000),
            (_, Unit::Ns, true) => (50, 60_000_000),
        };
        // With templates out of the way there is time for more.
        let iterations = if args.compare_upstream { iterations * 2 } else { iterations };
        // A number that was asked for is taken, however long it takes.
        let budget = if args.iterations.is_some() { u64::MAX } else { budget };
        let methods = if args.first_use {
            Some(["vfork_exec", "posix_spawn", SPAWN_TEMPLATE_PID, FIRST_USE].join(","))
        } else {
            args.compare_upstream.then(|| "fork_exec,vfork_exec,posix_spawn,clone3".into())
        };
        Self {
            subject,
            unit,
            methods,
            first_use: args.first_use,
            faults: args.compare_upstream,
            iterations: args.iterations.unwrap_or(iterations),
            budget,
        }
    }

    /// guest-bench's command line.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![format!("{FOLDER}/guest-bench")];
        argv.extend(["--iterations".into(), self.iterations.to_string()]);
        argv.extend(["--budget".into(), self.budget.to_string()]);
        argv.extend(["--settle".into(), SETTLE.as_nanos().to_string()]);
        if let Some(methods) = &self.methods {
            argv.extend(["--methods".into(), methods.clone()]);
        }
        if self.first_use {
            argv.extend(["--parents", PARENTS[0].0].map(String::from));
        }
        if self.faults {
            argv.push("--faults".into());
        }
        match self.subject {
            Subject::Latency => {}
            Subject::Tools => argv.push("--tools".into()),
            Subject::Scaling => {
                argv.extend(["--scaling", "--programs", scaling::children(self.unit)].map(String::from));
            }
            Subject::Sizes => {
                let parents: Vec<String> = sizes::SIZES.into_iter().map(sizes::parent).collect();
                argv.extend(["--programs".into(), sizes::CHILD.into(), "--parents".into(), parents.join(",")]);
            }
        }
        argv
    }

    /// The guest that it is measured in.
    pub fn machine(&self, args: &BenchArgs) -> Machine {
        let (kernel_image, module) = (args.kernel_image.clone(), args.module.clone());
        let mem = (self.subject == Subject::Sizes).then(|| sizes::MEMORY.into());
        Machine { kernel_image, module, mem, ..Machine::usual(self.subject.processors(self.unit)) }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn plan(arguments: &[&str], unit: Unit, subject: Subject) -> Plan {
        Plan::new(&Cli::parse_from([&["bench"], arguments].concat()).args, unit, subject)
    }

    #[test]
    fn every_subject_has_its_options() {
        let argv = |unit, subject| plan(&[], unit, subject).argv().join(" ");
        assert!(argv(Unit::Instructions, Subject::Sizes).contains("--parents touched0m,touched1m,"));
        assert!(argv(Unit::Instructions, Subject::Scaling).ends_with("--scaling --programs libc-free,dynamic"));
        assert!(argv(Unit::Ns, Subject::Scaling).ends_with("--programs libc-free,static"));
        assert!(!argv(Unit::Instructions, Subject::Latency).contains("--parents"));
    }

    #[test]
    fn first_use_is_measured_with_one_parent() {
        let argv = plan(&["--first-use"], Unit::Instructions, Subject::Latency).argv().join(" ");
        assert!(argv.contains("spawn_template_twice --parents small"), "{argv}");
    }

    #[test]
    fn who_asks_for_a_number_of_samples_gets_it() {
        let plan = plan(&["--iterations", "7", "--quick"], Unit::Instructions, Subject::Latency);
        assert_eq!((plan.iterations, plan.budget), (7, u64::MAX));
    }

    #[test]
    fn instructions_are_counted_on_one_processor() {
        for subject in [Subject::Latency, Subject::Sizes, Subject::Scaling, Subject::Tools] {
            assert_eq!(subject.processors(Unit::Instructions), 1);
        }
        assert_eq!(Subject::Scaling.processors(Unit::Ns), 2);
    }
}
