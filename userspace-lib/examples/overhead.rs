//! `overhead PROGRAM [SAMPLES]`: what this crate costs over the bare system call, for a child with 5 arguments, 30
//! environment variables and 3 pipes.
//!
//! A command that is there already is compared with vectors that are there already; one that is built each time, with
//! vectors that are built each time, of the same strings.
//!
//! The unit is that of the clock. Run it where that counts instructions:
//! `cargo xtask run --icount --copy target/release/examples/overhead -- ./overhead /bin/true`.

use std::ffi::{CString, c_char};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, io, ptr};

use spawn_template::uapi::{
    SPAWN_TEMPLATE_ACTION_DUP2, spawn_template_action, spawn_template_result, spawn_template_spawn_args,
};
use spawn_template::{Command, Mode, Stdio, Template, TemplateOptions, sys};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A way to start the program, by name, and how long each start took.
struct Way<'a> {
    name: &'static str,
    /// Whether it is one that others are compared with.
    bare: bool,
    run: Box<dyn Fn() -> Result<()> + 'a>,
    times: Vec<u128>,
}

impl<'a> Way<'a> {
    fn new(name: &'static str, bare: bool, run: impl Fn() -> Result<()> + 'a) -> Self {
        Way { name, bare, run: Box::new(run), times: Vec::new() }
    }
}

const ARGUMENTS: [&str; 5] = ["one", "two", "three", "four", "five"];
const VARIABLES: usize = 30;

fn main() -> ExitCode {
    let mut args = env::args().skip(1);
    let (Some(program), samples) = (args.next(), args.next()) else {
        eprintln!("usage: overhead PROGRAM [SAMPLES]");
        return ExitCode::FAILURE;
    };
    match measure(&program, samples.and_then(|samples| samples.parse().ok()).unwrap_or(200)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overhead: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(program: &str, samples: usize) -> Result<()> {
    let template = TemplateOptions::new().mode(Mode::Template).open(program)?;
    let variables: Vec<(String, String)> =
        (0..VARIABLES).map(|number| (format!("VARIABLE_{number}"), format!("value {number}"))).collect();
    let bare = Bare::new(program, &variables)?;
    let build = |command: &mut Command<'_>| {
        command.args(ARGUMENTS).env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    };
    let mut held = Command::new(&template);
    build(&mut held);
    let prepared = held.prepare()?;
    let run = |command: &Command<'_>| -> Result<()> {
        command.spawn()?.wait()?;
        Ok(())
    };
    let built = |mut command: Command<'_>| {
        build(&mut command);
        run(&command)
    };
    // Each is compared with the bare one before it.
    let mut ways = [
        Way::new("bare system call", true, || bare.run(&template)),
        Way::new("prepared", false, || Ok(prepared.spawn()?.wait().map(drop)?)),
        Way::new("command used again", false, || run(&held)),
        Way::new("bare, vectors built each time", true, || Bare::new(program, &variables)?.run(&template)),
        Way::new("command built each time", false, || built(Command::new(&template))),
        Way::new("command built each time, by path", false, || built(Command::new(program))),
    ];
    // In turns, so that whatever changes meanwhile changes for all, and not always after the same one, which leaves
    // allocators in a state of its own.
    for round in 0..samples + samples / 10 {
        let count = ways.len();
        for turn in 0..count {
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            let way = &mut ways[(turn + round / 2) % count];
            let start = Instant::now();
            (way.run)()?;
            way.times.push(start.elapsed().as_nanos());
        }
    }
    let mut base = 0;
    for Way { name, bare, times, .. } in &mut ways {
        times.drain(..samples / 10);
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or(0);
        if *bare {
            base = median.max(1);
            println!("{name:33} {median:9}");
        } else {
            println!("{name:33} {median:9} {:+7.2} %", (median as f64 / base as f64 - 1.0) * 100.0);
        }
    }
    Ok(())
}

/// The vectors for the bare system call.
struct Bare {
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Bare {
    fn new(program: &str, variables: &[(String, String)]) -> Result<Self> {
        let arguments = [program].into_iter().chain(ARGUMENTS).map(CString::new);
        let variables = variables.iter().map(|(name, value)| CString::new([name.as_str(), value].join("=")));
        let strings = arguments.chain(variables).collect::<std::result::Result<Vec<_>, _>>()?;
        let (arguments, variables) = strings.split_at(1 + ARGUMENTS.len());
        let vector = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        Ok(Bare { argv: vector(arguments), envp: vector(variables), _strings: strings })
    }

    /// Starts the program with three pipes and waits for it.
    fn run(&self, template: &Template) -> Result<()> {
        let pipes = [pipe()?, pipe()?, pipe()?];
        let theirs = [&pipes[0].0, &pipes[1].1, &pipes[2].1];
        let mut actions = [spawn_template_action { type_: SPAWN_TEMPLATE_ACTION_DUP2, ..Default::default() }; 3];
        for ((action, fd), number) in actions.iter_mut().zip(theirs).zip(0..) {
            (action.fd, action.newfd) = (fd.as_raw_fd(), number);
        }
        let mut pidfd: i32 = -1;
        let mut result = spawn_template_result::default();
        let args = spawn_template_spawn_args {
            pidfd: (&raw mut pidfd).expose_provenance() as u64,
            argv: self.argv.as_ptr().expose_provenance() as u64,
            envp: self.envp.as_ptr().expose_provenance() as u64,
            actions: actions.as_ptr().expose_provenance() as u64,
            actions_len: actions.len() as u64,
            result: (&raw mut result).expose_provenance() as u64,
            result_size: size_of_val(&result) as u64,
            ..Default::default()
        };
        // SAFETY: all addresses lead to what they should, and the two results may be written to.
        unsafe { sys::spawn_template_spawn(template.as_fd().as_raw_fd(), &args, size_of_val(&args)) }?;
        // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        // The child's ends, and ours of its input, as the crate does before it waits.
        let [(input, ours), (out, output), (err, error)] = pipes;
        drop((input, output, error, ours));
        let id = pidfd.as_raw_fd() as libc::id_t;
        // SAFETY: all bits zero is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: the local may be written to.
        if unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        drop((out, err));
        Ok(())
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}
