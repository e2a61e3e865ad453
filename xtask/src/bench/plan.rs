//! What a boot measures, and for how long.

use super::report::Unit;
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
    /// What the person gets to read while it is measured.
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
    methods: Option<&'static str>,
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
        // Whoever asks for a number gets it, however long it takes.
        let budget = if args.iterations.is_some() { u64::MAX } else { budget };
        let methods = args.compare_upstream.then_some("fork_exec,vfork_exec,posix_spawn,clone3");
        Self { subject, methods, iterations: args.iterations.unwrap_or(iterations), budget }
    }

    /// guest-bench's command line.
    pub fn argv(&self) -> Vec<String> {
        let mut argv = vec![format!("{FOLDER}/guest-bench")];
        argv.extend(["--iterations".into(), self.iterations.to_string()]);
        argv.extend(["--budget".into(), self.budget.to_string()]);
        argv.extend(["--settle".into(), SETTLE.as_nanos().to_string()]);
        if let Some(methods) = self.methods {
            argv.extend(["--methods".into(), methods.into()]);
        }
        match self.subject {
            Subject::Latency => {}
            Subject::Tools => argv.push("--tools".into()),
            Subject::Scaling => {
                argv.extend(["--scaling", "--programs", scaling::CHILDREN].map(String::from));
            }
            Subject::Sizes => {
                let parents: Vec<String> = sizes::SIZES.into_iter().map(sizes::parent).collect();
                argv.extend(["--programs".into(), sizes::CHILD.into(), "--parents".into(), parents.join(",")]);
            }
        }
        argv
    }

    /// The guest that it is measured in.
    pub fn machine(&self, args: &BenchArgs, unit: Unit) -> Machine {
        let (kernel_image, module) = (args.kernel_image.clone(), args.module.clone());
        let mem = (self.subject == Subject::Sizes).then(|| sizes::MEMORY.into());
        Machine { kernel_image, module, smp: self.subject.processors(unit), mem }
    }
}
