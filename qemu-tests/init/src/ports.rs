//! The virtio-serial ports to the host.

use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::thread::sleep;
use std::time::Duration;

/// Where the kernel lists the ports; there is no udev to make links by name.
const CLASS: &str = "/sys/class/virtio-ports";

/// What the guest tells the host: one JSON object a line.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// Init runs and has found the ports.
    Booted,
    /// The command is about to start.
    Started,
    /// The command ended by itself. The counts say how much output the host has to have read.
    Exited {
        /// Exit status.
        code: i32,
        /// Bytes sent on the standard output port.
        stdout: u64,
        /// Bytes sent on the standard error port.
        stderr: u64,
    },
    /// The command was killed.
    Signaled {
        /// Signal number.
        signal: i32,
        /// Bytes sent on the standard output port.
        stdout: u64,
        /// Bytes sent on the standard error port.
        stderr: u64,
    },
    /// The guest could not do its job.
    Error {
        /// What went wrong.
        message: String,
    },
}

/// Opens the port called `name`, waiting for the device to be probed.
pub fn open(name: &str) -> Result<File, String> {
    for _ in 0..500 {
        if let Some(device) = find(name).map_err(|error| format!("{CLASS}: {error}"))? {
            let path = format!("/dev/{device}");
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|error| format!("port {name} ({path}): {error}"));
        }
        sleep(Duration::from_millis(10));
    }
    Err(format!("port {name} did not appear"))
}

/// The device node of the port called `name`, if the kernel knows it yet.
fn find(name: &str) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(CLASS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // A port gets its name a moment after its folder.
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(entry.file_name().into_string().ok());
        }
    }
    Ok(None)
}

/// The control port.
pub struct Control(File);

impl Control {
    /// Opens it.
    pub fn open() -> Result<Self, String> {
        open("spawn.control").map(Self)
    }

    /// Tells the host something. A host that has gone away is no reason to fail: it is about to end the guest.
    pub fn send(&mut self, event: &Event) {
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            let _ = self.0.write_all(&line);
        }
    }

    /// Waits until the host says it has read everything. Powering off earlier could lose what QEMU still holds.
    pub fn wait_for_host(&mut self) {
        let _ = self.0.read(&mut [0]);
    }
}
