//! `shell`: an interactive guest.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read, Write};
use std::process::{ChildStdin, ExitCode};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::kernel::Flavor;
use crate::programs;
use crate::qemu::End;
use crate::run::Machine;

/// Ends the guest at once, as it ends a telnet session: Ctrl-].
const ESCAPE: u8 = 0x1d;

/// What a terminal sends for the end of the input: Ctrl-D.
const END_OF_INPUT: u8 = 0x04;

/// Arguments of `shell`.
#[derive(clap::Args)]
#[command(after_help = "\
The shell is the guest's bash, as root, on its serial console; the module is loaded, and the test programs are in
/payload. `exit` ends the guest, Ctrl-] ends it at once. Input that does not come from a terminal is typed into the
shell.")]
pub struct ShellArgs {
    /// Which kernel; all but upstream have spawn templates, the module loaded if it is one
    #[arg(long, value_enum, default_value = "patched")]
    kernel: Flavor,
    #[command(flatten)]
    machine: Machine,
}

/// `shell`
pub fn main(ctx: &Context, args: ShellArgs) -> Result<ExitCode> {
    let mut guest = args.machine.guest(ctx, args.kernel, "shell")?;
    programs::add_children(ctx, &mut guest.payload)?;
    guest.payload.copy(&programs::suite(ctx)?, "/payload/guest-suite".as_ref())?;
    guest.payload.copy(&programs::bench(ctx)?, "/payload/guest-bench".as_ref())?;
    guest.argv = vec!["/bin/bash".into(), "-i".into()];
    // Without a terminal nobody wants to see colours.
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    let term = std::env::var("TERM").ok().filter(|_| terminal).unwrap_or_else(|| "dumb".into());
    guest.env = BTreeMap::from([("TERM".into(), term), ("PS1".into(), r"\u@\h:\w\$ ".into())]);
    // What the kernel says below a warning would only get between the lines.
    guest.kernel_args.push_str(" loglevel=5");
    guest.timeout = Duration::from_secs(7 * 24 * 3600);
    guest.terminal = Some(terminal_size());
    ctx.ui.note("starting a guest; `exit` or Ctrl-] ends it");

    enter_raw();
    let mut out = io::stdout();
    let outcome = guest.run(
        ctx,
        &mut |bytes| out.write_all(bytes).and_then(|()| out.flush()),
        &mut |_| Ok(()),
        Some(Box::new(|input| {
            thread::spawn(move || feed(input));
        })),
    );
    leave_raw();
    let outcome = outcome?;
    println!();
    outcome.explain();
    Ok(match outcome.end {
        // The shell's own status is that of its last command and says nothing about the guest.
        End::Exited(_) | End::Signaled(_) if outcome.findings.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Types our input into the guest.
fn feed(mut guest: ChildStdin) {
    let mut input = io::stdin();
    let mut buffer = [0; 1024];
    loop {
        let count = input.read(&mut buffer).unwrap_or(0);
        let typed = &buffer[..count];
        if io::stdin().is_terminal() && typed.contains(&ESCAPE) {
            // The same as Ctrl-C outside of raw mode: the thread that waits for it ends everything.
            // SAFETY: raise(3) touches no memory; the handler is signal-hook's.
            unsafe { libc::raise(libc::SIGINT) };
            return;
        }
        if count == 0 {
            break;
        }
        if guest.write_all(typed).is_err() {
            return;
        }
    }
    // The shell sees this only when it waits at an empty line; before that it may still be busy with what was typed.
    while guest.write_all(&[END_OF_INPUT]).is_ok() {
        thread::sleep(Duration::from_millis(500));
    }
}

/// Rows and columns of our terminal.
fn terminal_size() -> (u16, u16) {
    // SAFETY: winsize is plain data, for which all zeros is a valid value.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes a winsize, which `size` is.
    let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) } == 0;
    if known && size.ws_row > 0 && size.ws_col > 0 { (size.ws_row, size.ws_col) } else { (24, 80) }
}

/// How the terminal was before it was made raw.
static SAVED: OnceLock<libc::termios> = OnceLock::new();

/// Lets our terminal pass on every key as it is pressed, until [`leave_raw`].
fn enter_raw() {
    // SAFETY: termios is plain data, for which all zeros is a valid value.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `settings` is a valid place for the settings.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, &mut settings) } != 0 || SAVED.set(settings).is_err() {
        return;
    }
    // An interrupt ends us with exit(), from a thread that knows nothing of terminals.
    // SAFETY: the function lives as long as the process, and may run at any time.
    unsafe { libc::atexit(leave_raw) };
    // SAFETY: `settings` holds valid settings.
    unsafe { libc::cfmakeraw(&mut settings) };
    // Lines of our own, such as an error's, still begin at the left.
    settings.c_oflag |= libc::OPOST | libc::ONLCR;
    // SAFETY: as above.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, &settings) };
}

/// Gives the terminal back as it was. Harmless when it is.
extern "C" fn leave_raw() {
    if let Some(saved) = SAVED.get() {
        // SAFETY: `saved` holds the settings tcgetattr() gave.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSADRAIN, saved) };
    }
}
