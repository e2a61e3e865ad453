//! Which accelerator a guest gets.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{emulator, memory_file, passed_path};
use crate::context::{Accel, Context};
use crate::interrupt::Guarded;
use crate::kernel::Flavor;

/// How long the probe may take. With real hardware support it takes well under a second.
const PATIENCE: Duration = Duration::from_secs(10);

/// What QEMU exits with when the probe has run to its end: isa-debug-exit doubles the value written and adds one.
const FINISHED: i32 = 0x2a << 1 | 1;

/// Real-mode code that counts to a hundred million and then says so. Where every guest instruction is emulated, as in
/// some virtual machines that offer /dev/kvm all the same, it does not get there in time.
const PROBE: &[u8] = &[
    0x66, 0xb9, 0x00, 0xe1, 0xf5, 0x05, // mov ecx, 100000000
    0x66, 0x49, // again: dec ecx
    0x75, 0xfc, // jnz again
    0xba, 0x01, 0x05, // mov dx, 0x501
    0xb0, 0x2a, // mov al, 0x2a
    0xee, // out dx, al
    0xf4, // hlt
];

/// Which accelerator a guest gets, and why.
pub fn accelerator(ctx: &Context) -> Result<(Accel, String)> {
    if let Some(accel) = ctx.accel {
        return Ok((accel, "forced by --accel".into()));
    }
    let no = |why: &str| Ok((Accel::Tcg, why.to_owned()));
    let info = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    if !virtualises(&info) {
        return no("/proc/cpuinfo shows neither vmx nor svm");
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        return no(&format!("/dev/kvm cannot be used: {error}"));
    }
    match probe(ctx) {
        Ok(Some(time)) => Ok((Accel::Kvm, format!("a probe ran in {} ms", time.as_millis()))),
        Ok(None) => no(&format!("/dev/kvm is there, but a probe did not finish in {} s", PATIENCE.as_secs())),
        Err(error) => no(&format!("/dev/kvm is there, but a probe failed: {error:#}")),
    }
}

/// Whether the processor offers virtualisation.
fn virtualises(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Runs the probe under KVM. None means that it was too slow.
fn probe(ctx: &Context) -> Result<Option<Duration>> {
    // A firmware of 64 KiB ends at the reset vector, which jumps to its beginning.
    let mut rom = vec![0xf4; 64 * 1024];
    rom[..PROBE.len()].copy_from_slice(PROBE);
    rom[0xfff0..0xfff5].copy_from_slice(&[0xea, 0x00, 0x00, 0x00, 0xf0]);
    let mut file = memory_file("probe")?;
    file.write_all(&rom)?;

    let emulator = emulator::path(ctx)?;
    let mut command = Command::new(&emulator);
    command.args(["-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none", "-m", "16M"]);
    command.args(["-accel", "kvm", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
    let path = passed_path(&mut command, &file);
    command.arg("-bios").arg(path);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let mut qemu = Guarded::spawn(&mut command).with_context(|| format!("cannot start {}", emulator.display()))?;
    while started.elapsed() < PATIENCE {
        match qemu.try_wait()? {
            Some(status) if status.code() == Some(FINISHED) => return Ok(Some(started.elapsed())),
            Some(status) => anyhow::bail!("QEMU ended with {status}"),
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(None)
}

/// Whether the clock of a guest with this kernel should count instructions although nobody measures: the debug kernel is so
/// slow under emulation that half of its time would go to timer interrupts. Its processors then run in turns.
pub fn counts_instead(ctx: &Context, flavor: Flavor) -> Result<bool> {
    Ok(flavor == Flavor::Debug && accelerator(ctx)?.0 == Accel::Tcg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_words() {
        assert!(virtualises("processor\t: 0\nflags\t\t: fpu vmx sse\n"));
        assert!(virtualises("flags\t\t: fpu svm\n"));
        assert!(!virtualises("flags\t\t: fpu svm_lock\nvmx flags\t: vnmi\n"));
    }
}
