//! Measures what starting a program costs, and prints one JSON object per line on standard output.
//!
//! For every kind of parent a fresh process is made, and in it every method of starting every child is sampled in turn,
//! so that a drift of the machine meets all methods alike. A sample is the time from before the call that starts the
//! child until it is reaped, by CLOCK_MONOTONIC, which in a guest under `-icount shift=0` counts instructions.

mod mark;
mod methods;
mod parents;
mod scaling;
mod stats;
mod tools;

use std::error::Error;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use methods::{Method, Program};
use parents::Parent;
use serde_json::{Value, json};

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Child {
    /// The name in results.
    name: &'static str,
    /// The program's name in the folder of children, or its path.
    file: &'static str,
    /// Its arguments after the first.
    arguments: &'static [&'static str],
}

impl Child {
    const fn new(name: &'static str, file: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { name, file, arguments }
    }

    /// Whether it is the distribution's, and does more than start and end.
    fn is_installed(self) -> bool {
        self.file.starts_with('/')
    }

    fn program(self, folder: &str) -> io::Result<Program> {
        let path = if self.is_installed() { self.file.to_owned() } else { format!("{folder}/{}", self.file) };
        Program::new(&path, self.arguments)
    }
}

/// The children.
const CHILDREN: [Child; 6] = [
    Child::new("libc-free", "nothing", &[]),
    Child::new("static", "static0", &[]),
    Child::new("dynamic", "dynamic0", &[]),
    Child::new("git --version", "/usr/bin/git", &["--version"]),
    Child::new("perl -e 1", "/usr/bin/perl", &["-e", "1"]),
    Child::new("python3 -c pass", "/usr/bin/python3", &["-c", "pass"]),
];

/// Children that take page faults, for what the patches cost others: once with templates in use on this kernel.
const FAULTS: [Child; 4] = [
    Child::new("read faults", "faults", &["read", "/usr/bin/python3"]),
    Child::new("write faults", "faults", &["write", "/usr/bin/python3"]),
    Child::new("copy after read", "faults", &["copy", "/usr/bin/python3"]),
    Child::new("copy faults", "faults", &["both", "/usr/bin/python3"]),
];

/// Rounds that are run before measuring: the first children fill caches, break the parent's copy-on-write sharing, and
/// tell what a sample costs.
const WARM_UP_ROUNDS: usize = 3;

/// A method gets this many samples, whatever it costs.
const FEWEST_SAMPLES: usize = 7;

/// Where the children are started from, on the guest's disk: programs come in memory with the payload, but that is not
/// where anybody keeps them.
const ON_DISK: &str = "/opt/children";

const USAGE: &str = "usage: guest-bench [--children DIR] [--iterations N] [--budget NS] [--settle NS]
                   [--methods NAME,...] [--parents NAME,...] [--programs NAME,...] [--faults] [--symbols]
       guest-bench --tools [--iterations N] [--budget NS] [--settle NS]
       guest-bench --scaling [--children DIR] [--programs NAME,...] [--iterations N] [--budget NS] [--settle NS]";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Every method with every parent and child.
    Latency,
    /// The same with one parent, by the process that is the parent.
    Worker,
    /// Short tools instead of the children.
    Tools,
    /// Several callers at a time.
    Scaling,
}

struct Options {
    /// The folder they are in.
    children: String,
    /// Samples of each method, at most.
    iterations: usize,
    /// Time that the samples of one method with one child and one parent may take together, in the clock's unit.
    budget: u64,
    /// Idle time before each sample.
    settle: Duration,
    methods: Vec<Method>,
    parents: Vec<Parent>,
    /// The children.
    programs: Vec<Child>,
    /// Measure the children that take page faults as well.
    faults: bool,
    /// Name the kernel's functions and where they are, last.
    symbols: bool,
    mode: Mode,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            children: "/payload/children".into(),
            iterations: 100,
            budget: 100_000_000,
            settle: Duration::ZERO,
            methods: Method::TABLE.to_vec(),
            parents: Parent::ALL.to_vec(),
            programs: CHILDREN.to_vec(),
            faults: false,
            symbols: false,
            mode: Mode::Latency,
        };
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--symbols" => options.symbols = true,
                "--faults" => options.faults = true,
                "--worker" => options.mode = Mode::Worker,
                "--tools" => options.mode = Mode::Tools,
                "--scaling" => options.mode = Mode::Scaling,
                _ => options.set(&name, arguments.next())?,
            }
        }
        if options.iterations == 0 {
            return Err("--iterations must not be 0".into());
        }
        if options.faults {
            options.programs.extend(FAULTS);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), String> {
        let value = value.ok_or_else(|| format!("{name}: a value is missing"))?;
        match name {
            "--children" => self.children = value,
            "--iterations" => self.iterations = number(&value)?,
            "--budget" => self.budget = number(&value)?,
            "--settle" => self.settle = Duration::from_nanos(number(&value)?),
            "--methods" => self.methods = named(&value, &Method::ALL, Method::name)?,
            "--programs" => self.programs = named(&value, &CHILDREN, |child| child.name)?,
            "--parents" => self.parents = value.split(',').map(parent).collect::<Result<_, _>>()?,
            _ => return Err(format!("{name}: no such option")),
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text}: not a number"))
}

fn parent(name: &str) -> Result<Parent, String> {
    Parent::named(name).ok_or_else(|| format!("{name}: no such name"))
}

/// The members of `all` that the comma-separated `list` names, in the order of `all`.
fn named<T: Copy>(list: &str, all: &[T], name: impl Fn(T) -> &'static str) -> Result<Vec<T>, String> {
    if let Some(unknown) = list.split(',').find(|wanted| !all.iter().any(|&one| name(one) == *wanted)) {
        return Err(format!("{unknown}: no such name"));
    }
    Ok(all.iter().copied().filter(|&one| list.split(',').any(|wanted| name(one) == wanted)).collect())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut options = match Options::parse(arguments.iter().cloned()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("guest-bench: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let result = match options.mode {
        Mode::Worker => measure_all(&options),
        Mode::Tools => tools::measure(&options).and_then(|()| describe_machine(&options)),
        Mode::Scaling => put_on_disk(&mut options)
            .and_then(|()| scaling::measure(&options))
            .and_then(|()| describe_machine(&options)),
        Mode::Latency => put_on_disk(&mut options)
            .and_then(|()| run_workers(&options, &arguments))
            .and_then(|()| describe_machine(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies the children that are not the distribution's to where they are started from.
fn put_on_disk(options: &mut Options) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(ON_DISK)?;
    for child in options.programs.iter().filter(|child| !child.is_installed()) {
        let (from, to) = (format!("{}/{}", options.children, child.file), format!("{ON_DISK}/{}", child.file));
        fs::copy(&from, &to).map_err(|error| format!("copying {from} to {to}: {error}"))?;
        // Nothing of it is written while something is measured.
        File::open(&to)?.sync_all()?;
    }
    options.children = ON_DISK.into();
    Ok(())
}

/// Measures each kind of parent in a process of its own.
fn run_workers(options: &Options, arguments: &[String]) -> Result<(), Box<dyn Error>> {
    // The parents get one and the same address-space layout in every run: where mappings fall decides how many page tables
    // fork copies, which is worth a per cent. Measured children get a random layout each, see measure_all().
    // SAFETY: changes a flag of this process that only its next execs look at.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    for parent in &options.parents {
        let status = Command::new("/proc/self/exe")
            .args(arguments)
            .args(["--children", &options.children, "--parents", &parent.name(), "--worker"])
            .env_clear()
            .status()?;
        if !status.success() {
            return Err(format!("measuring with parent {} failed ({status})", parent.name()).into());
        }
    }
    Ok(())
}

/// Says what was measured on, and with `--symbols` where the kernel has what.
fn describe_machine(options: &Options) -> Result<(), Box<dyn Error>> {
    print_line(json!({
        "type": "machine",
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "cpu": cpu_model(&fs::read_to_string("/proc/cpuinfo")?),
        "cpuid_ns": cpuid_cost(),
        "clocksource": fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .unwrap_or_default().trim(),
    }));
    if options.symbols {
        let symbols = fs::read_to_string("/proc/kallsyms")?;
        let is_code = |line: &&str| [" t ", " T ", " w ", " W "].iter().any(|kind| line.contains(kind));
        let code: String = symbols.split_inclusive('\n').filter(is_code).collect();
        print!("{code}");
    }
    Ok(())
}

/// Turns this process into the parent asked for and measures every method with every child.
fn measure_all(options: &Options) -> Result<(), Box<dyn Error>> {
    let [parent] = options.parents[..] else { return Err("a worker measures one parent".into()) };
    parent.become_it()?;
    for &child in &options.programs {
        // These take their time, and what a parent is like shows with the others.
        let takes_faults = FAULTS.contains(&child);
        if (child.is_installed() || takes_faults) && parent != Parent::Small {
            continue;
        }
        // The emulator translates a program anew wherever it finds it, which for a large one takes ten times as long as
        // running it and counts no instruction.
        let layout = if child.is_installed() { libc::ADDR_NO_RANDOMIZE } else { 0 };
        // SAFETY: changes a flag of this process that only execs look at: its children's.
        unsafe { libc::personality(layout as libc::c_ulong) };
        print_line(json!({ "type": "progress", "parent": parent.name(), "child": child.name }));
        let mut program = child.program(&options.children)?;
        let mut methods = options.methods.clone();
        // Page faults look at more once there has been a template.
        if (takes_faults || methods.iter().any(|method| method.is_of_template()))
            && let Err(error) = program.make_template()
        {
            if !error.is_unsupported() {
                return Err(format!("making a template of {}: {error}", child.name).into());
            }
            let (missing, there): (Vec<_>, Vec<_>) = methods.into_iter().partition(|method| method.is_of_template());
            methods = there;
            for method in missing {
                print_line(json!({ "type": "missing", "method": method.name() }));
            }
        }
        let quiet = if child.is_installed() { Some(Quiet::new()?) } else { None };
        let measured = measure(&program, &methods, options);
        drop(quiet);
        let (all, counted) = measured?;
        if let Some(spawns) = counted {
            print_line(json!({ "type": "counted", "spawns": spawns }));
        }
        for (method, mut samples) in methods.iter().zip(all) {
            samples.sort_unstable();
            print_line(json!({
                "type": "result",
                "child": child.name,
                "method": method.name(),
                "parent": parent.name(),
                "n": samples.len(),
                "p10": stats::percentile(&samples, 10),
                "p50": stats::percentile(&samples, 50),
                "p90": stats::percentile(&samples, 90),
                "typical": stats::mean_without_tails(&samples),
            }));
        }
    }
    Ok(())
}

/// As long as it exists, standard output leads nowhere: programs that have something to say would say it among the results.
struct Quiet(OwnedFd);

impl Quiet {
    fn new() -> io::Result<Self> {
        let saved = io::stdout().as_fd().try_clone_to_owned()?;
        redirect(&File::options().write(true).open("/dev/null")?)?;
        Ok(Self(saved))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Without results the run fails, so nobody takes this for one that worked.
        let _ = redirect(&self.0);
    }
}

/// Has standard output lead where `to` does.
fn redirect(to: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: replaces a descriptor that is only used by its number, as standard output.
    let result = unsafe { libc::dup2(to.as_raw_fd(), libc::STDOUT_FILENO) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The samples of each method, and how many spawns the kernel has counted, if by template.
type Measured = (Vec<Vec<u64>>, Option<u64>);

/// The samples of every one of `methods`, taken in turn.
fn measure(program: &Program, methods: &[Method], options: &Options) -> Result<Measured, Box<dyn Error>> {
    let mut calls_of_template = 0;
    let spawns_before = program.template_spawns()?;
    let mut sample = |method: Method, counts: bool| -> Result<u64, String> {
        calls_of_template += u64::from(method.uses_the_template());
        if !options.settle.is_zero() {
            thread::sleep(options.settle);
        }
        let start = Instant::now();
        if counts {
            mark::begin();
        }
        let result = program.run(method);
        if counts {
            mark::end();
        }
        let elapsed = start.elapsed() / method.starts();
        result.map_err(|error| format!("{}: {error}", method.name()))?;
        u64::try_from(elapsed.as_nanos()).map_err(|error| error.to_string())
    };

    let mut costs = vec![0; methods.len()];
    for _ in 0..WARM_UP_ROUNDS {
        for (cost, &method) in costs.iter_mut().zip(methods) {
            *cost = sample(method, false)?;
        }
    }
    let counts: Vec<usize> = costs
        .iter()
        .map(|&cost| stats::samples_within(options.budget, cost, FEWEST_SAMPLES, options.iterations))
        .collect();
    let rounds = counts.iter().copied().max().unwrap_or(0);
    let mut samples: Vec<Vec<u64>> = counts.iter().map(|&count| Vec::with_capacity(count)).collect();
    let mut order = stats::Random::new();
    let mut turns: Vec<usize> = (0..methods.len()).collect();
    for round in 0..rounds {
        // The allocators' batches come round every so many children. In a fixed order one method would always pay for them.
        order.shuffle(&mut turns);
        for &index in &turns {
            if stats::takes_part(round, rounds, counts[index]) {
                samples[index].push(sample(methods[index], true)?);
            }
        }
    }

    let counted = spawns_before.zip(program.template_spawns()?).map(|(before, after)| after - before);
    if let Some(counted) = counted.filter(|counted| *counted != calls_of_template) {
        return Err(format!("{calls_of_template} spawns by template, but the kernel counted {counted}").into());
    }
    Ok((samples, counted))
}

fn print_line(line: Value) {
    println!("{line}");
}

fn cpu_model(cpuinfo: &str) -> &str {
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("unknown", |(_, model)| model.trim())
}

/// What one CPUID instruction takes: in a virtual machine each is a trip to the hypervisor, and a glibc program executes
/// dozens while it starts.
fn cpuid_cost() -> u64 {
    let mut samples: Vec<u64> = (0..101)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(std::arch::x86_64::__cpuid(0));
            start.elapsed().as_nanos() as u64
        })
        .collect();
    samples.sort_unstable();
    stats::percentile(&samples, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        Options::parse(arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn options_are_read() {
        let options = parse(&["--methods", "clone3,fork_exec", "--parents", "small", "--iterations", "9"]).unwrap();
        assert_eq!(options.methods, [Method::ForkExec, Method::Clone3]);
        assert_eq!(options.parents, [Parent::Small]);
        assert_eq!(options.programs, CHILDREN);
        assert_eq!(parse(&["--programs", "static"]).unwrap().programs, [CHILDREN[1]]);
        assert_eq!(options.iterations, 9);
        assert_eq!(options.mode, Mode::Latency);
        // The main process appends these to its own arguments.
        let options = parse(&["--parents", "small,fds10k", "--parents", "fds10k", "--worker"]).unwrap();
        assert_eq!(options.parents, [Parent::Fds10k]);
        assert_eq!(options.mode, Mode::Worker);
        assert_eq!(parse(&["--methods", "spawn_template_nowait"]).unwrap().methods, [Method::SpawnTemplateNowait]);
        assert!(!parse(&[]).unwrap().methods.contains(&Method::SpawnTemplateNowait));
        assert_eq!(parse(&["--parents", "touched64m"]).unwrap().parents, [Parent::Touched(64)]);
    }

    #[test]
    fn wrong_options_are_refused() {
        for wrong in [
            &["--methods", "spawn"][..],
            &["--iterations", "0"],
            &["--iterations", "x"],
            &["--budget"],
            &["-x", "1"],
            &["--parents", "touched"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn arguments_reach_the_program() {
        for (script, ends_well) in [("exit 0", true), ("exit 1", false)] {
            let program = Program::new("/bin/sh", &["-c", script]).unwrap();
            for method in [Method::ForkExec, Method::VforkExec, Method::PosixSpawn, Method::Clone3] {
                assert_eq!(program.run(method).is_ok(), ends_well, "{}, {script}", method.name());
            }
        }
    }

    #[test]
    fn every_baseline_starts_a_program() {
        let program = Program::new("/bin/true", &[]).unwrap();
        for method in [Method::ForkExec, Method::VforkExec, Method::PosixSpawn, Method::Clone3] {
            program.run(method).unwrap_or_else(|error| panic!("{}: {error}", method.name()));
        }
        let failing = Program::new("/bin/false", &[]).unwrap();
        let absent = Program::new("/nonexistent", &[]).unwrap();
        for method in Method::ALL {
            assert!(failing.run(method).is_err(), "{}", method.name());
            assert!(absent.run(method).is_err(), "{}", method.name());
        }
    }

    #[test]
    fn finds_the_cpu_model() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: QEMU TCG CPU\nmodel name\t: x\n"), "QEMU TCG CPU");
        assert_eq!(cpu_model(""), "unknown");
    }
}
