//! What guest-bench says, and how people and programs get to read it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::document::Document;
use super::scaling::Scaling;
use super::tools::Tool;

/// The rows of each block of the table, in order.
pub const CHILDREN: [&str; 3] = ["libc-free", "static", "dynamic"];
/// The distribution's programs, which the small parent starts as well.
pub const PROGRAMS: [&str; 3] = ["git --version", "perl -e 1", "python3 -c pass"];
/// Children that take page faults, with templates in use; measured when kernels are compared.
const FAULTS: [&str; 4] = ["read faults", "write faults", "copy after read", "copy faults"];
/// The parents, in order, with a heading each.
pub const PARENTS: [(&str, &str); 5] = [
    ("small", "small parent"),
    ("rss256m", "parent with 256 MiB touched (65 536 pages)"),
    ("vmas10k", "parent with 10 000 mappings, untouched"),
    ("fds10k", "parent with 10 000 open files"),
    ("threads64", "parent with 64 threads"),
];
/// The columns, in order.
pub const METHODS: [&str; 6] = ["fork_exec", "vfork_exec", "posix_spawn", "clone3", SPAWN_TEMPLATE, SPAWN_TEMPLATE_PID];

/// How many of the columns, the first ones, are ways without templates.
pub const BASELINES: usize = 4;

/// The column that the others are compared with.
pub const SPAWN_TEMPLATE: &str = "spawn_template";

/// The same without a pidfd.
pub const SPAWN_TEMPLATE_PID: &str = "spawn_template_pid";

/// What a start costs by a new template that starts the program twice, measured where it is asked for.
pub const FIRST_USE: &str = "spawn_template_twice";

/// The blocks of the table, in order: the parent, the heading, the children.
pub fn blocks() -> impl Iterator<Item = (&'static str, &'static str, &'static [&'static str])> {
    let programs =
        (PARENTS[0].0, "small parent, programs of the distribution (no randomized addresses)", &PROGRAMS[..]);
    let mut blocks: Vec<_> = PARENTS.into_iter().map(|(parent, heading)| (parent, heading, &CHILDREN[..])).collect();
    blocks.splice(1..1, [programs, (PARENTS[0].0, "small parent, children that take page faults", &FAULTS[..])]);
    blocks.into_iter()
}

/// What the figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Guest instructions.
    Instructions,
    /// Nanoseconds of wall time.
    Ns,
}

impl Unit {
    /// What a thousand of it are called: the table's unit.
    pub fn thousand(self) -> &'static str {
        match self {
            Unit::Instructions => "thousand guest instructions",
            Unit::Ns => "microseconds of wall time",
        }
    }
}

/// The cost of one method with one child and one parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The program that is started.
    pub child: String,
    /// How it is started.
    pub method: String,
    /// What starts it.
    pub parent: String,
    /// How many samples were taken.
    pub n: u64,
    /// A tenth of the samples are not above this.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Nine tenths of the samples are not above this.
    pub p90: u64,
    /// The mean of the samples without the lowest and the highest tenth, for comparisons between boots.
    #[serde(default, skip_serializing)]
    pub typical: u64,
}

/// One line of guest-bench's output.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Line {
    /// What is measured from now on.
    Progress {
        /// What starts children.
        parent: String,
        /// The child.
        child: String,
    },
    /// A finished measurement.
    Result(Sample),
    /// A finished measurement of a short tool.
    Tool(Tool),
    /// A finished measurement of several callers.
    Scaling(Scaling),
    /// All calls for one child and parent, warm-up included, went through the system call: the template's fdinfo says
    /// so.
    Counted {
        /// How many they were.
        spawns: u64,
    },
    /// A method this kernel does not have.
    Missing {
        /// Its name.
        method: String,
    },
    /// What was measured on. The last line.
    Machine(Machine),
}

/// The guest as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model name.
    pub cpu: String,
    /// What one CPUID instruction costs, in the unit of the results.
    pub cpuid_ns: u64,
    /// The kernel's source of time.
    pub clocksource: String,
}

impl Line {
    /// Reads one line.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line).with_context(|| format!("guest-bench printed a line that means nothing: {line}"))
    }
}

/// How the guest was run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The accelerator's name, as in the JSON.
    pub accel: &'static str,
    /// QEMU's processor model.
    pub cpu: &'static str,
    /// What the figures count.
    pub unit: Unit,
}

impl Setup {
    /// How the guest is run to get figures in `unit`; see `qemu`.
    pub fn new(unit: Unit) -> Self {
        let (accel, cpu) = match unit {
            Unit::Instructions => ("tcg", "max,-erms,-fsrm"),
            Unit::Ns => ("kvm", "max"),
        };
        Self { accel, cpu, unit }
    }

    /// The same for people, with the number of processors.
    pub fn described(&self, processors: u32, machine: &Machine) -> String {
        let Setup { accel, cpu, unit } = self;
        let icount = if *unit == Unit::Instructions { " -icount shift=0,sleep=off" } else { "" };
        format!("-accel {accel}{icount} -cpu {cpu} -smp {processors} ({})", machine.cpu)
    }
}

/// The outcome of one boot.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it was run.
    pub setup: Setup,
    /// What it was run on.
    pub machine: Machine,
    /// Methods the kernel does not have.
    pub missing: Vec<String>,
    /// How many children the kernel has counted as started from a template, which is all of them.
    pub counted: u64,
    /// All results.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Puts together what guest-bench has printed.
    pub fn new(setup: Setup, lines: impl IntoIterator<Item = Line>) -> Result<Self> {
        let mut machine = None;
        let mut missing = Vec::new();
        let mut counted = 0;
        let mut samples = Vec::new();
        for line in lines {
            match line {
                Line::Progress { .. } | Line::Tool(_) | Line::Scaling(_) => {}
                Line::Result(sample) => samples.push(sample),
                Line::Counted { spawns } => counted += spawns,
                Line::Missing { method } if !missing.contains(&method) => missing.push(method),
                Line::Missing { .. } => {}
                Line::Machine(found) => machine = Some(found),
            }
        }
        let Some(machine) = machine else { bail!("guest-bench ended before its last line") };
        Ok(Self { setup, machine, missing, counted, samples })
    }

    /// The result of one method with one child and one parent.
    pub fn sample(&self, parent: &str, child: &str, method: &str) -> Option<&Sample> {
        self.samples.iter().find(|sample| sample.parent == parent && sample.child == child && sample.method == method)
    }

    /// The results for programs.
    pub fn document(&self) -> Document {
        Document {
            kernel: self.machine.kernel.clone(),
            accel: self.setup.accel.to_owned(),
            unit: self.setup.unit,
            results: self.samples.clone(),
            machine: None,
            sizes: Vec::new(),
            scaling: Vec::new(),
        }
    }

    /// The same as a file's content.
    pub fn json(&self) -> Result<String> {
        self.document().json()
    }

    /// The results for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        self.write_table(&mut text);
        text
    }

    fn write_table(&self, text: &mut String) {
        let methods: Vec<&str> = METHODS
            .into_iter()
            .chain([FIRST_USE])
            .filter(|method| self.samples.iter().any(|sample| sample.method == *method))
            .collect();
        let most = self.samples.iter().map(|sample| sample.n).max().unwrap_or(0);
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "From the call that starts a program until it is reaped, {}", self.setup.unit.thousand());
        let _ = writeln!(text, "  kernel   {}", self.machine.kernel);
        let _ = writeln!(text, "  machine  {}", self.setup.described(1, &self.machine));
        let _ = writeln!(
            text,
            "  samples  up to {most} of each (fewer where one takes long), methods in random turns in one boot"
        );
        let _ = writeln!(text, "  cells    median, below it 10th - 90th percentile");
        if self.setup.unit == Unit::Ns {
            let cost = self.machine.cpuid_ns;
            let _ =
                writeln!(text, "  CPUID    {cost} ns each here, and a glibc program executes 68 of them as it starts");
        }
        if methods.contains(&SPAWN_TEMPLATE) {
            let counted = self.counted;
            let _ =
                writeln!(text, "  checked  {counted} spawns by template, warm-up included, all counted by its fdinfo");
            let _ = writeln!(text, "  2.00x    costs twice what spawn_template does with the same child and parent");
        }
        if methods.contains(&SPAWN_TEMPLATE_PID) {
            let _ = writeln!(text, "  pid      spawn_template without a pidfd, which is all that posix_spawn gives");
        }
        if methods.contains(&FIRST_USE) {
            let _ = writeln!(
                text,
                "  twice    a new template is made, starts the program twice and is closed; half of that"
            );
        }
        for method in &self.missing {
            let _ = writeln!(text, "  this kernel has no {method}");
        }
        for (parent, heading, children) in blocks() {
            if !self.samples.iter().any(|sample| sample.parent == parent && children.contains(&&*sample.child)) {
                continue;
            }
            let _ = writeln!(text, "\n{heading}");
            write_row(text, "", methods.iter().copied());
            for child in children {
                self.write_child(text, parent, child, &methods);
            }
            write_row(text, "samples", methods.iter().map(|method| self.sample_counts(parent, children, method)));
        }
    }

    fn write_child(&self, text: &mut String, parent: &str, child: &str, methods: &[&str]) {
        let template = self.sample(parent, child, SPAWN_TEMPLATE);
        let samples = methods.iter().map(|method| self.sample(parent, child, method));
        let median = |sample: &Sample| match template {
            Some(template) if sample.method != SPAWN_TEMPLATE => {
                let ratio = sample.p50 as f64 / template.p50.max(1) as f64;
                format!("{} {ratio:5.2}x", thousands(sample.p50))
            }
            _ => thousands(sample.p50),
        };
        let range = |sample: &Sample| format!("{} - {}", thousands(sample.p10), thousands(sample.p90));
        write_row(text, child, samples.clone().map(|sample| sample.map_or("-".into(), median)));
        write_row(text, "", samples.map(|sample| sample.map_or(String::new(), range)));
    }

    /// How many samples each child's result for this parent and method is made of.
    fn sample_counts(&self, parent: &str, children: &[&str], method: &str) -> String {
        let counts = children.iter().filter_map(|child| Some(self.sample(parent, child, method)?.n));
        match (counts.clone().min(), counts.max()) {
            (Some(least), Some(most)) if least == most => most.to_string(),
            (Some(least), Some(most)) => format!("{least} - {most}"),
            _ => "-".into(),
        }
    }
}

/// How much more or less the same method costs in `ours` than in `theirs`, in per cent of the latter.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    parent: &'static str,
    child: &'static str,
    method: &'static str,
    theirs: u64,
    ours: u64,
}

impl Difference {
    fn percent(&self) -> f64 {
        (self.ours as f64 / self.theirs.max(1) as f64 - 1.0) * 100.0
    }
}

/// Compares every result that both reports have.
pub fn differences(theirs: &Report, ours: &Report) -> Vec<Difference> {
    let mut found = Vec::new();
    for (parent, _, children) in blocks() {
        for &child in children {
            for method in METHODS {
                if let (Some(theirs), Some(ours)) =
                    (theirs.sample(parent, child, method), ours.sample(parent, child, method))
                {
                    found.push(Difference { parent, child, method, theirs: theirs.typical, ours: ours.typical });
                }
            }
        }
    }
    found
}

/// The comparison for people.
pub fn comparison(theirs: &Report, ours: &Report, differences: &[Difference]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "What upstream's methods cost without and with our patches, mean of the middle 80 %, {}",
        ours.setup.unit.thousand()
    );
    let _ = writeln!(text, "  upstream {}", theirs.machine.kernel);
    let _ = writeln!(text, "  patched  {}", ours.machine.kernel);
    let _ = writeln!(text, "  machine  {}\n", ours.setup.described(1, &ours.machine));
    let _ = writeln!(text, "parent    child           method           upstream      patched difference");
    for difference in differences {
        let Difference { parent, child, method, theirs, ours } = difference;
        let (theirs, ours, percent) = (thousands(*theirs), thousands(*ours), difference.percent());
        let _ = writeln!(text, "{parent:<9} {child:<15} {method:<12} {theirs:>12} {ours:>12} {percent:>+9.2}%");
    }
    text
}

/// What costs more than `limit` per cent more with our patches.
pub fn costing_more(differences: &[Difference], limit: f64) -> Vec<&Difference> {
    differences.iter().filter(|difference| difference.percent() > limit).collect()
}

/// One line of the table.
fn write_row<S: AsRef<str>>(text: &mut String, name: &str, cells: impl Iterator<Item = S>) {
    let start = text.len();
    // Writing to a String cannot fail.
    let _ = write!(text, "{name:<15}");
    for cell in cells {
        let _ = write!(text, " {:>18}", cell.as_ref());
    }
    text.truncate(start + text[start..].trim_end().len());
    text.push('\n');
}

/// 1234567 as "1234.6".
pub fn thousands(value: u64) -> String {
    format!("{:.1}", value as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(parent: &str, child: &str, method: &str, p50: u64) -> Sample {
        Sample {
            child: child.into(),
            method: method.into(),
            parent: parent.into(),
            n: 9,
            p10: p50 - p50 / 100,
            p50,
            p90: p50 + p50 / 100,
            typical: p50,
        }
    }

    fn report(samples: Vec<Sample>) -> Report {
        Report {
            setup: Setup::new(Unit::Instructions),
            machine: Machine {
                kernel: "7.3.4".into(),
                cpu: "QEMU TCG CPU".into(),
                cpuid_ns: 1,
                clocksource: "tsc".into(),
            },
            missing: vec![],
            counted: 9,
            samples,
        }
    }

    #[test]
    fn lines_are_read() {
        let line = r#"{"child":"static","parent":"small","type":"progress"}"#;
        assert_eq!(Line::parse(line).unwrap(), Line::Progress { parent: "small".into(), child: "static".into() });
        let line = "{\"child\":\"static\",\"method\":\"clone3\",\"n\":9,\"p10\":99,\"p50\":100,\"p90\":101,\
                    \"typical\":100,\"parent\":\"small\",\"type\":\"result\"}";
        assert_eq!(Line::parse(line).unwrap(), Line::Result(sample("small", "static", "clone3", 100)));
        assert!(Line::parse("Segmentation fault").is_err());
    }

    #[test]
    fn a_report_needs_its_last_line() {
        let setup = report(vec![]).setup;
        let machine = Line::Machine(report(vec![]).machine);
        let missing = || Line::Missing { method: SPAWN_TEMPLATE.into() };
        let counted = || Line::Counted { spawns: 4 };
        assert!(Report::new(setup.clone(), [missing()]).is_err());
        let report = Report::new(setup, [missing(), counted(), missing(), counted(), machine]).unwrap();
        assert_eq!(report.counted, 8);
        assert_eq!(report.missing, [SPAWN_TEMPLATE]);
    }

    #[test]
    fn the_json_has_the_agreed_fields() {
        let json = report(vec![sample("small", "static", "clone3", 100)]).json().unwrap();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        let expected = serde_json::json!({
            "kernel": "7.3.4", "accel": "tcg", "unit": "instructions",
            "results": [{
                "child": "static", "method": "clone3", "parent": "small", "n": 9, "p10": 99, "p50": 100, "p90": 101,
            }],
        });
        assert_eq!(value, expected);
        assert_eq!(serde_json::to_value(Unit::Ns).unwrap(), "ns");
    }

    #[test]
    fn the_table_shows_medians_spread_and_ratios() {
        let report = report(vec![
            sample("small", "libc-free", "posix_spawn", 189_000),
            sample("small", "libc-free", SPAWN_TEMPLATE, 100_000),
            sample("rss256m", "dynamic", "posix_spawn", 21_000_000),
        ]);
        let table = report.table();
        for expected in
            ["kernel   7.3.4", "max,-erms,-fsrm", "189.0", "187.1 - 190.9", "189.0  1.89x", "21000.0", "256 MiB"]
        {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
        for unexpected in ["fork_exec", "10 000 mappings", "CPUID"] {
            assert!(!table.contains(unexpected), "{unexpected} is in\n{table}");
        }
        assert!(table.lines().all(|line| line.len() <= 116), "{table}");
    }

    #[test]
    fn wall_time_is_shown_beside_the_cost_of_cpuid() {
        let mut report = report(vec![sample("small", "static", "clone3", 100)]);
        report.setup = Setup::new(Unit::Ns);
        report.machine.cpuid_ns = 7000;
        let table = report.table();
        assert!(table.contains("7000 ns"), "{table}");
        assert!(table.contains("microseconds"), "{table}");
        assert!(!table.contains("icount"), "{table}");
    }

    #[test]
    fn kernels_are_compared() {
        let theirs = report(vec![
            sample("small", "static", "fork_exec", 1000),
            sample("small", "static", "vfork_exec", 1000),
            sample("small", "static", "posix_spawn", 1000),
        ]);
        let ours = report(vec![
            sample("small", "static", "fork_exec", 1009),
            sample("small", "static", "vfork_exec", 980),
            sample("small", "static", "posix_spawn", 1500),
            sample("small", "static", SPAWN_TEMPLATE, 1),
        ]);
        let differences = differences(&theirs, &ours);
        assert_eq!(differences.len(), 3);
        let more = costing_more(&differences, 1.0);
        assert_eq!(more.len(), 1);
        assert_eq!(more[0].method, "posix_spawn");
        let table = comparison(&theirs, &ours, &differences);
        for expected in ["+0.90%", "-2.00%", "+50.00%"] {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
    }
}
