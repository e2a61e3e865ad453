//! PID 1 of the guest: makes the system usable, runs one command, reports its status and powers off.
//!
//! The kernel starts this program from the initramfs. Everything it is to do stands in `/payload/job.json`, written
//! by xtask; what it has to say goes to the host over virtio-serial ports, so that the kernel's console stays the
//! kernel's.

mod job;
mod leaks;
mod mounts;
mod overlay;
mod ports;
mod run;
mod sys;

use job::Job;
use ports::{Control, Event};
use std::fs;

fn main() {
    let mut control = None;
    if let Err(message) = guest(&mut control) {
        // The console first: it is always there, the control port may be what failed.
        eprintln!("guest-init: {message}");
        if let Some(control) = &mut control {
            control.send(&Event::Error { message });
            control.wait_for_host();
        }
    }
    sys::power_off();
}

/// The whole life of the guest. The control port is handed out as soon as it is open, for reporting an error.
fn guest(control: &mut Option<Control>) -> Result<(), String> {
    mounts::early()?;
    let control = control.insert(Control::open()?);
    control.send(&Event::Booted);

    mounts::enter_root("/dev/vda")?;
    overlay::install()?;
    let job: Job = fs::read(job::PATH)
        .map_err(|error| format!("{}: {error}", job::PATH))
        .and_then(|text| serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", job::PATH)))?;

    sys::set_hostname("guest").map_err(|error| format!("setting the host name: {error}"))?;
    sys::loopback_up().map_err(|error| format!("bringing up the loopback interface: {error}"))?;
    if job.module {
        sys::load_module(job::MODULE).map_err(|error| format!("loading {}: {error}", job::MODULE))?;
    }

    let event = run::run(&job, control)?;
    // At a terminal one would only wonder what takes so long.
    if job.tty.is_none() {
        leaks::report()?;
    }
    control.send(&event);
    control.wait_for_host();
    Ok(())
}
