//! Many spawns of a file that nobody touches: not one of them is ESTALE.

use std::fs::{self, File};

use crate::harness::{Outcome, error_name, failed};
use crate::os::{self, Status};
use crate::template::{Folder, Template, child, set_mode};
use crate::{same, tests};

tests!("untouched":
    on_tmpfs [7200], on_ext4 [7200], on_overlay [7200], on_lower_layer [7200], on_initramfs [7200],
);

/// How many spawns: 150, or 100 000 when `SPAWN_TEMPLATE_LONG=1` asks for a long run.
fn rounds() -> u64 {
    if std::env::var_os("SPAWN_TEMPLATE_LONG").is_some_and(|value| value == "1") { 100_000 } else { 150 }
}

/// Spawns the program at `path` so many times, by a template of the path and by one of a descriptor in turn.
fn spawned(path: &str) -> Outcome {
    let file = File::open(path)?;
    let templates = [Template::path(path)?, Template::of_fd(&file)?];
    let rounds = rounds();
    for round in 0..rounds {
        match templates[(round % 2) as usize].status() {
            Ok(Status::Exited(0)) => {}
            Ok(status) => return Err(failed(format!("spawn {round} of {rounds}: {status:?}"))),
            Err(e) => return Err(failed(format!("spawn {round} of {rounds}: {}", error_name(&e)))),
        }
        if round % 64 == 0 {
            // Others read, map and run it meanwhile, and ask for its attributes.
            fs::read(path)?;
            fs::metadata(path)?;
            std::process::Command::new(path).status()?;
        }
    }
    for template in &templates {
        same!(template.counts()?, (rounds / 2, 0), "spawns and failures");
    }
    Ok(())
}

fn in_folder(parent: &str) -> Outcome {
    let folder = Folder::new(parent, "untouched")?;
    spawned(&folder.copy("nothing")?)
}

fn on_tmpfs() -> Outcome {
    in_folder("/tmp")
}

fn on_ext4() -> Outcome {
    in_folder("/var/tmp")
}

/// Where the children lie from boot on.
fn on_initramfs() -> Outcome {
    spawned(&child("nothing"))
}

/// An overlay of a tmpfs on a disk, with the program in the upper or in the lower layer.
fn overlay(lower_layer: bool) -> Outcome {
    os::private_mounts()?;
    let (lower, base) = (Folder::new("/var/tmp", "untouched-lower")?, Folder::tmp("untouched-overlay")?);
    let [upper, work, merged] = ["upper", "work", "merged"].map(|sub| base.join(sub));
    for sub in [&upper, &work, &merged] {
        fs::create_dir(sub)?;
    }
    if lower_layer {
        lower.copy("nothing")?;
    }
    os::mount("overlay", &merged, "overlay", 0, &format!("lowerdir={},upperdir={upper},workdir={work}", lower.path()))?;
    let path = format!("{merged}/nothing");
    let result = (|| {
        if !lower_layer {
            fs::copy(child("nothing"), &path)?;
            set_mode(&path, 0o755)?;
        }
        spawned(&path)
    })();
    os::unmount(&merged)?;
    result
}

fn on_overlay() -> Outcome {
    overlay(false)
}

fn on_lower_layer() -> Outcome {
    overlay(true)
}
