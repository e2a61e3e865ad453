//! The short tools that an agent, an editor or a build starts all the time, started as such a program does it: each call
//! gets new pipes and vectors, its output is read to the end, and it is reaped.

use std::error::Error;
use std::ffi::{CString, OsString, c_char, c_int};
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Stdio;
use std::ptr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use spawn_template::Mode;

use crate::stats::{self, Random};
use crate::{Options, print_line};

/// Where the tools work: a git repository that this program makes.
const FOLDER: &str = "/tmp/tools";

/// The tools: a name, the path and the arguments.
const TOOLS: [(&str, &[&str]); 12] = [
    ("grep", &["/usr/bin/grep", "-n", "needle", "notes.txt"]),
    ("sed", &["/usr/bin/sed", "-n", "1,20p", "notes.txt"]),
    ("awk", &["/usr/bin/awk", "{ print $2 }", "notes.txt"]),
    ("cat", &["/usr/bin/cat", "notes.txt"]),
    ("head", &["/usr/bin/head", "-n", "5", "notes.txt"]),
    ("find", &["/usr/bin/find", ".", "-name", "*.c"]),
    ("stat", &["/usr/bin/stat", "notes.txt"]),
    ("ls", &["/usr/bin/ls", "-l", "src"]),
    // Without the option git would write its index, which four at once do not do alike.
    ("git status", &["/usr/bin/git", "--no-optional-locks", "status", "--short"]),
    ("git diff", &["/usr/bin/git", "--no-optional-locks", "diff"]),
    ("python", &["/usr/bin/python3", "-c", "import sys; print(sum(range(100)), sys.argv)"]),
    // Most of what a shell is asked to do has more than one command in it.
    ("pipeline", &["/usr/bin/sh", "-c", "cat notes.txt | grep needle | head -n 3"]),
];

/// How many calls may be in flight.
const IN_FLIGHT: [usize; 2] = [1, 4];

/// A sample is the time that so many calls take, divided by their number.
const CALLS: usize = 4;

/// A tool is sampled so often, whatever it costs. Under emulation a call of Python takes seconds.
const FEWEST_SAMPLES: usize = 3;

/// What starts the tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starter {
    /// `std::process::Command`
    Std,
    /// The C library's `posix_spawn()`, and its records.
    PosixSpawn,
    /// `spawn_template::Command`, given the same path as the others.
    SpawnTemplate,
}

impl Starter {
    const ALL: [Starter; 3] = [Starter::Std, Starter::PosixSpawn, Starter::SpawnTemplate];

    fn name(self) -> &'static str {
        match self {
            Starter::Std => "std",
            Starter::PosixSpawn => "posix_spawn",
            Starter::SpawnTemplate => "spawn_template",
        }
    }

    /// Runs a program with nothing to read and nobody to complain to; what it has written.
    fn output(self, argv: &[OsString], environment: &Environment) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let [program, args @ ..] = argv else { return Err("no program".into()) };
        let (status, text) = match self {
            Starter::Std => {
                let mut command = std::process::Command::new(program);
                command.args(args).stdin(Stdio::null()).stderr(Stdio::null());
                let output = command.output()?;
                (output.status, output.stdout)
            }
            Starter::SpawnTemplate => {
                let mut command = spawn_template::Command::new(program);
                // No fallback where there are no templates.
                command.args(args).mode(Mode::Template);
                command.stdin(spawn_template::Stdio::null()).stderr(spawn_template::Stdio::null());
                let output = command.output()?;
                (output.status, output.stdout)
            }
            Starter::PosixSpawn => return posix_spawn(argv, environment),
        };
        if status.success() { Ok(text) } else { Err(format!("{status}").into()) }
    }
}

/// This process's environment as `posix_spawn(3)` takes it. It does not change.
struct Environment {
    vector: Vec<*mut c_char>,
    _strings: Vec<CString>,
}

// SAFETY: nobody writes what the addresses lead to.
unsafe impl Sync for Environment {}

impl Environment {
    fn new() -> Result<Self, Box<dyn Error>> {
        let variables = std::env::vars_os().map(|(name, value)| [name, value].join("=".as_ref()).into_vec());
        let strings = variables.map(CString::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { vector: vector(&strings), _strings: strings })
    }
}

/// Pointers to C strings, ended by a null pointer.
fn vector(strings: &[CString]) -> Vec<*mut c_char> {
    strings.iter().map(|string| string.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// An error of one of the functions that return it.
fn check(errno: c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// File actions of `posix_spawn(3)`.
struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the function fills in the structure.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it has.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn open_null(&mut self, fd: c_int, flags: c_int) -> io::Result<()> {
        // SAFETY: the record was made in `new`, and the path is a C string.
        check(unsafe { libc::posix_spawn_file_actions_addopen(&mut self.0, fd, c"/dev/null".as_ptr(), flags, 0) })
    }

    fn dup2(&mut self, fd: c_int, newfd: c_int) -> io::Result<()> {
        // SAFETY: the record was made in `new`.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, fd, newfd) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: the record was made in `new`, and this is its last use.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

fn posix_spawn(argv: &[OsString], environment: &Environment) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    let strings = argv.iter().map(|arg| CString::new(arg.clone().into_vec())).collect::<Result<Vec<_>, _>>()?;
    let arguments = vector(&strings);
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the call has just made them.
    let [reader, writer] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });

    let mut actions = FileActions::new()?;
    actions.open_null(0, libc::O_RDONLY)?;
    actions.dup2(writer.as_raw_fd(), 1)?;
    actions.open_null(2, libc::O_WRONLY)?;
    let mut pid = 0;
    let (argv, envp) = (arguments.as_ptr(), environment.vector.as_ptr());
    // SAFETY: the vectors end with null pointers, the strings with NUL bytes.
    check(unsafe { libc::posix_spawn(&mut pid, arguments[0], &actions.0, ptr::null(), argv, envp) })?;

    drop(writer);
    let mut text = Vec::new();
    File::from(reader).read_to_end(&mut text)?;
    let mut status = 0;
    // SAFETY: waitpid only writes the integer passed to it.
    if unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
        return Err(io::Error::last_os_error().into());
    }
    if status == 0 { Ok(text) } else { Err(format!("wait status {status:#x}").into()) }
}

/// One tool in one form, and what it writes.
struct Call {
    tool: &'static str,
    form: &'static str,
    argv: Vec<OsString>,
    expected: Vec<u8>,
}

/// All tools, by themselves and by the shell.
fn calls(environment: &Environment) -> Result<Vec<Call>, Box<dyn Error>> {
    let mut calls = Vec::new();
    for (tool, words) in TOOLS {
        let direct: Vec<OsString> = words.iter().map(OsString::from).collect();
        let shell = ["/usr/bin/sh".into(), "-c".into(), script(words).into()].into();
        let is_shell = words.first() == Some(&"/usr/bin/sh");
        let forms = if is_shell { vec![("sh -c", direct)] } else { vec![("direct", direct), ("sh -c", shell)] };
        for (form, argv) in forms {
            let run = |starter: Starter| {
                starter
                    .output(&argv, environment)
                    .map_err(|error| format!("{tool}, {form}, {}: {error}", starter.name()))
            };
            // Also warms up the file's pages.
            let expected = run(Starter::Std)?;
            if expected.is_empty() {
                return Err(format!("{tool}, {form}: it has written nothing").into());
            }
            calls.push(Call { tool, form, argv, expected });
        }
    }
    Ok(calls)
}

/// The words as a line of the shell.
fn script(words: &[&str]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-,".contains(&byte);
    let quoted = |word: &&str| if word.bytes().all(plain) { (*word).to_owned() } else { format!("'{word}'") };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// Makes what the tools work on.
fn make_folder() -> Result<(), Box<dyn Error>> {
    let source = Path::new(FOLDER).join("src");
    fs::create_dir_all(&source)?;
    let line = |number: usize| format!("{number} line with a {}\n", if number % 10 == 0 { "needle" } else { "word" });
    let text: String = (1..=200).map(line).collect();
    fs::write(Path::new(FOLDER).join("notes.txt"), &text)?;
    for number in 0..20 {
        fs::write(source.join(format!("file{number}.c")), format!("/* {number} */\n{text}"))?;
    }
    std::env::set_current_dir(FOLDER)?;
    let identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    for args in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message", "all"]] {
        let status = std::process::Command::new("/usr/bin/git").args(identity).args(args).status()?;
        if !status.success() {
            return Err(format!("git {}: {status}", args.join(" ")).into());
        }
    }
    fs::write(source.join("file7.c"), text.replace("word", "other word"))?;
    Ok(())
}

/// Measures every way of starting every tool.
pub fn measure(options: &Options) -> Result<(), Box<dyn Error>> {
    // One layout for all, as the emulator translates a program anew wherever it finds it: that takes ten times as long as
    // running it, and counts no instruction.
    // SAFETY: changes a flag of this process that only execs look at: its children's.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    make_folder()?;
    let environment = Environment::new()?;
    let mut starters = Starter::ALL.to_vec();
    if !spawn_template::is_supported() {
        starters.retain(|&starter| starter != Starter::SpawnTemplate);
        print_line(json!({ "type": "missing", "method": Starter::SpawnTemplate.name() }));
    }
    let mut order = Random::new();
    for call in calls(&environment)? {
        for in_flight in IN_FLIGHT {
            let name = format!("{in_flight} in flight");
            print_line(json!({ "type": "progress", "parent": name, "child": format!("{} {}", call.form, call.tool) }));
            let mut samples: Vec<Vec<u64>> = starters.iter().map(|_| Vec::new()).collect();
            let mut cost = 0;
            for &starter in &starters {
                // Fills caches, and tells what a sample costs.
                cost = cost.max(sample(&call, starter, in_flight, &environment, options.settle)? * CALLS as u64);
            }
            let rounds = stats::samples_within(options.budget, cost, FEWEST_SAMPLES, options.iterations);
            let mut turns: Vec<usize> = (0..starters.len()).collect();
            for _ in 0..rounds {
                order.shuffle(&mut turns);
                for &index in &turns {
                    samples[index].push(sample(&call, starters[index], in_flight, &environment, options.settle)?);
                }
            }
            for (starter, mut samples) in starters.iter().zip(samples) {
                samples.sort_unstable();
                print_line(json!({
                    "type": "tool",
                    "tool": call.tool,
                    "form": call.form,
                    "in_flight": in_flight,
                    "method": starter.name(),
                    "n": samples.len(),
                    "p10": stats::percentile(&samples, 10),
                    "p50": stats::percentile(&samples, 50),
                    "p90": stats::percentile(&samples, 90),
                }));
            }
        }
    }
    Ok(())
}

/// What one of [`CALLS`] calls takes, of which so many are in flight at a time.
fn sample(
    call: &Call,
    starter: Starter,
    in_flight: usize,
    environment: &Environment,
    settle: Duration,
) -> Result<u64, Box<dyn Error>> {
    thread::sleep(settle);
    let barrier = Barrier::new(in_flight);
    let work = || {
        barrier.wait();
        let start = Instant::now();
        let outputs: Vec<_> =
            (0..CALLS / in_flight).map(|_| starter.output(&call.argv, environment)).collect::<Result<_, _>>()?;
        let end = Instant::now();
        match outputs.iter().all(|output| *output == call.expected) {
            true => Ok((start, end)),
            false => Err("it has written something else".into()),
        }
    };
    let results: Result<Vec<_>, Box<dyn Error + Send + Sync>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..in_flight).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("the caller panicked".into()))).collect()
    });
    let times = results.map_err(|error| format!("{}, {}, {}: {error}", call.tool, call.form, starter.name()))?;
    let start = times.iter().map(|(start, _)| *start).min();
    let end = times.iter().map(|(_, end)| *end).max();
    let elapsed = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
    Ok(u64::try_from(elapsed.as_nanos())? / CALLS as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_give_the_same_output() {
        let environment = Environment::new().unwrap();
        let argv = ["/bin/sh", "-c", "echo $PATH; pwd"].map(OsString::from);
        let expected = Starter::Std.output(&argv, &environment).unwrap();
        assert!(expected.contains(&b'/'));
        assert_eq!(Starter::PosixSpawn.output(&argv, &environment).unwrap(), expected);
        let failing = ["/bin/false"].map(OsString::from);
        for starter in Starter::ALL {
            assert!(starter.output(&failing, &environment).is_err());
        }
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(script(&["/bin/sed", "-n", "1,2p"]), "/bin/sed -n 1,2p");
        assert_eq!(script(&["awk", "{ print $2 }", "*.c"]), "awk '{ print $2 }' '*.c'");
    }

    #[test]
    fn a_sample_is_the_time_of_one_call() {
        let environment = Environment::new().unwrap();
        let argv = ["/bin/echo", "text"].map(OsString::from).to_vec();
        let call = Call { tool: "echo", form: "direct", argv, expected: b"text\n".to_vec() };
        for in_flight in IN_FLIGHT {
            assert!(sample(&call, Starter::Std, in_flight, &environment, Duration::ZERO).unwrap() > 0);
        }
        let wrong = Call { expected: b"other\n".to_vec(), ..call };
        assert!(sample(&wrong, Starter::Std, 1, &environment, Duration::ZERO).is_err());
    }
}
