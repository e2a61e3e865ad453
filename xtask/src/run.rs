//! `run`: one command in a guest.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::context::Context;
use crate::kernel::{self, Flavor};
use crate::qemu::{CopySpec, End, Guest, Outcome, Payload};
use crate::{image, programs};

/// How many times longer than on the other kernels a test or a call may take on the debug kernel.
const SLOWNESS: u32 = 10;

const STATUS_PANIC: u8 = 250;
const STATUS_COMPLAINT: u8 = 251;
const STATUS_TIMEOUT: u8 = 252;
const STATUS_QEMU: u8 = 253;
/// The command could not be run, whatever the reason.
pub const STATUS_NOT_RUN: u8 = 254;

/// Arguments of `run`.
#[derive(clap::Args)]
#[command(after_help = "\
Exit status: the command's, 128 + N when signal N killed it, 127 when it was not found, 126 when it could not be
started, or
  250  the guest's kernel panicked, oopsed or hit a BUG before the command ended
  251  the command ended, but the guest's kernel warned, stalled or complained otherwise
  252  the guest did not boot, or the command did not end, in time
  253  QEMU could not be used, or ended before the command did
  254  the command could not be run: a build failed, or the guest could not be set up
With 250 to 254 an explanation is on stderr, with the console's last lines where there is a console.

The command starts as root in /payload, a tmpfs, with stdin from /dev/null.

Examples:
  cargo xtask run -- uname -a
  cargo xtask run --copy target/debug/demo -- ./demo --verbose
  cargo xtask run --kernel upstream --copy data:/srv/data -- bash -c 'ls -l /srv/data'
  cargo xtask run --kernel-arg slab_debug=FPU --qemu-arg -device --qemu-arg virtio-rng-pci -- cat /proc/cmdline")]
pub struct RunArgs {
    /// Which kernel; all but upstream have spawn templates, the module loaded if it is one
    #[arg(long, value_enum, default_value = "patched")]
    kernel: Flavor,
    #[command(flatten)]
    machine: Machine,
    /// Copy a file or folder into the guest, with the shared libraries its programs need there. Without GUEST it lies
    /// in /payload under its own name; a relative GUEST is below /payload; one that ends in a slash is the folder to
    /// put it in
    #[arg(long, value_name = "HOST[:GUEST]")]
    copy: Vec<CopySpec>,
    /// Count time in guest instructions: one nanosecond each (implies --accel tcg)
    #[arg(long)]
    icount: bool,
    /// How long the command may take
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    timeout: u64,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// What a guest's machine is like.
#[derive(clap::Args)]
pub struct Machine {
    /// Boot this kernel image instead of building one
    #[arg(long, value_name = "PATH", hide = true)]
    pub kernel_image: Option<PathBuf>,
    /// The module for --kernel-image
    #[arg(long, value_name = "PATH", hide = true, requires = "kernel_image")]
    pub module: Option<PathBuf>,
    /// How many processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub smp: u32,
    /// How much memory, such as 512M or 2G [default: 1G, 2G for the debug kernel]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub mem: Option<String>,
    /// Add ARG to the kernel's command line, such as slab_debug=FPU; may be given several times
    #[arg(long = "kernel-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub kernel_args: Vec<String>,
    /// Add ARG to QEMU's command line, one word at a time, behind all others; may be given several times
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_args: Vec<String>,
}

impl Machine {
    /// A machine with so many processors and otherwise as usual.
    pub fn usual(smp: u32) -> Self {
        Self { kernel_image: None, module: None, smp, mem: None, kernel_args: Vec::new(), qemu_args: Vec::new() }
    }

    /// A guest of this kind with everything it needs, ready to be told what to do.
    pub fn guest(&self, ctx: &Context, flavor: Flavor, name: &str) -> Result<Guest> {
        let (kernel, module) = match &self.kernel_image {
            Some(path) => (path.clone(), self.module.clone()),
            None => {
                let kernel = kernel::ensure(ctx, flavor)?;
                (kernel.bzimage, kernel.module)
            }
        };
        let (mut usual, mut env, mut kernel_args) = ("1G", BTreeMap::new(), Vec::new());
        if flavor == Flavor::Debug {
            // What it keeps beside each object takes as much room again.
            usual = "2G";
            env.insert("SPAWN_TEMPLATE_SLOW".into(), SLOWNESS.to_string());
            // While the kernel finds out about the boot processor, it forgets for a moment that it has five levels of page
            // tables; KASAN takes addresses for wild ones if an interrupt comes just then.
            kernel_args.push("no5lvl".to_owned());
        }
        kernel_args.extend(self.kernel_args.clone());
        Ok(Guest {
            name: name.to_owned(),
            kernel,
            kernel_args: kernel_args.join(" "),
            qemu_args: self.qemu_args.clone(),
            image: image::ensure(ctx)?,
            init: programs::init(ctx)?,
            module,
            smp: self.smp,
            mem: self.mem.clone().unwrap_or_else(|| usual.into()),
            icount: false,
            plugin: None,
            payload: Payload::default(),
            argv: Vec::new(),
            env,
            timeout: Duration::from_secs(600),
            terminal: None,
        })
    }
}

/// Checks a memory size. A bare number is MiB, as it is to QEMU.
fn memory(text: &str) -> Result<String, String> {
    let upper = text.to_uppercase();
    let (digits, suffix) = match upper.strip_suffix(['M', 'G']) {
        Some(digits) => (digits, &upper[digits.len()..]),
        None => (upper.as_str(), "M"),
    };
    match digits.parse::<u32>() {
        Ok(1..) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(format!("{digits}{suffix}")),
        _ => Err("a size such as 512M or 2G is needed".into()),
    }
}

/// `run`
pub fn main(ctx: &Context, args: RunArgs) -> Result<ExitCode> {
    match run(ctx, args) {
        Ok(outcome) => {
            outcome.explain();
            Ok(ExitCode::from(status(&outcome)))
        }
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::from(128 + libc::SIGPIPE as u8)),
        // The caller turns it into STATUS_NOT_RUN.
        Err(error) => Err(error),
    }
}

fn run(ctx: &Context, args: RunArgs) -> Result<Outcome> {
    // First what can be wrong with the arguments: a build takes minutes.
    let mut payload = Payload::default();
    for spec in &args.copy {
        payload.copy(&spec.host, &spec.guest)?;
    }
    let mut guest = args.machine.guest(ctx, args.kernel, "run")?;
    for name in payload.add_libraries(|name| guest.image.has_library(name))? {
        ctx.ui.note(format!("warning: {name} is neither in the guest nor on this machine"));
    }
    guest.payload = payload;
    guest.icount = args.icount;
    guest.timeout = Duration::from_secs(args.timeout);
    guest.argv = args.command;
    let (mut out, mut err) = (io::stdout(), io::stderr());
    guest
        .run(ctx, &mut |bytes| out.write_all(bytes).and_then(|()| out.flush()), &mut |bytes| err.write_all(bytes), None)
        .context("running the guest")
}

/// What `run` exits with.
fn status(outcome: &Outcome) -> u8 {
    match outcome.end {
        End::Crashed => STATUS_PANIC,
        End::TimedOut(_) => STATUS_TIMEOUT,
        End::Qemu(_) => STATUS_QEMU,
        End::Guest(_) => STATUS_NOT_RUN,
        End::Exited(_) | End::Signaled(_) if !outcome.findings.is_empty() => STATUS_COMPLAINT,
        End::Exited(code) => code as u8,
        End::Signaled(signal) => 128 + signal as u8,
    }
}

/// Whether the reader of our output has gone, as in `cargo xtask run -- yes | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Half of a memory size that [`memory`] has accepted, in MiB.
pub fn half(size: &str) -> String {
    let (digits, unit) = size.split_at(size.len() - 1);
    let mib = digits.parse::<u64>().unwrap_or_default() * if unit == "G" { 1024 } else { 1 };
    format!("{}M", mib / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_memory_size() {
        assert_eq!(half("1G"), "512M");
        assert_eq!(half("768M"), "384M");
    }

    #[test]
    fn memory_sizes() {
        assert_eq!(memory("512M").unwrap(), "512M");
        assert_eq!(memory("2g").unwrap(), "2G");
        assert_eq!(memory("768").unwrap(), "768M");
        for bad in ["M", "0G", "1GG", "-1G", "+1G", "1K", ""] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
