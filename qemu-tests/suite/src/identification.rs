//! How a program finds out that the system calls are ours, and that a descriptor is the template it means.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;

use crate::harness::{Checks, Outcome};
use crate::os;
use crate::template::{Act, Template};
use crate::{ensure, same, tests};

tests!("identification": file_names_calls_and_masks, file_is_on_proc, ids_differ, right_id, wrong_id, id_of_no_template);

const FILE: &str = "/proc/spawn_template";

fn id_of(template: &Template) -> Outcome<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", template.raw()))?;
    let id = text.lines().find_map(|line| line.strip_prefix("id:")?.trim().parse().ok());
    id.ok_or_else(|| crate::harness::failed(format!("no id in {text}")))
}

fn file_names_calls_and_masks() -> Outcome {
    let text = fs::read_to_string(FILE)?;
    let mut lines = text.lines();
    same!(lines.next(), Some("spawn_template 1"), "first line");
    let values: BTreeMap<_, _> = lines.filter_map(|line| line.split_once(' ')).collect();
    let masks = [("actions", "0xfffffe"), ("create_flags", "0x3"), ("exec_flags", "0x1100"), ("spawn_flags", "0xf")];
    let numbers = [("create", "473"), ("spawn", "474")];
    same!(values, BTreeMap::from_iter(masks.into_iter().chain(numbers)), "the other lines");
    // A template says the same of itself.
    let info = Template::child("nothing")?.info()?;
    for (name, mask) in masks {
        same!(info.get(&name.replace('_', "-"))?, mask, "{name} in fdinfo");
    }
    Ok(())
}

fn file_is_on_proc() -> Outcome {
    let file = fs::File::open(FILE)?;
    // SAFETY: all bytes zero is a valid statfs.
    let mut statfs: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to the structure only.
    let result = unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut statfs) };
    ensure!(result == 0, "fstatfs failed");
    let magic = statfs.f_type;
    same!(magic, libc::PROC_SUPER_MAGIC, "file system");
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    Ok(())
}

fn ids_differ() -> Outcome {
    let first = Template::child("nothing")?;
    let id = id_of(&first)?;
    let second = Template::child("nothing")?;
    ensure!(id != 0 && id_of(&second)? != id, "two templates have the id {id}");
    drop(second);
    let third = Template::child("nothing")?;
    ensure!(id_of(&third)? > id + 1, "an id was used again");
    Ok(())
}

fn right_id() -> Outcome {
    let template = Template::child("exit-code")?;
    let id = id_of(&template)?;
    let spawn = template.spawn().argv(["exit-code", "7"]);
    let child = spawn.run_changed(|args| {
        args.flags |= 8;
        args.template_id = id;
    })?;
    same!(child.wait()?, os::Status::Exited(7), "status");
    Ok(())
}

fn wrong_id() -> Outcome {
    let template = Template::child("nothing")?;
    let other = Template::child("nothing")?;
    let mut checks = Checks::default();
    for id in [0, id_of(&other)?, u64::MAX] {
        // Found before anything else is looked at.
        let spawn = template.spawn().act(Act::Close(-1));
        let result = spawn.run_changed(|args| {
            args.flags |= 8;
            args.template_id = id;
        });
        checks.refused(format!("id {id}"), result, &[libc::EBADF]);
    }
    checks.refused(
        "an id without the flag",
        template.spawn().run_changed(|args| args.template_id = 1),
        &[libc::EINVAL],
    );
    checks.finish()
}

fn id_of_no_template() -> Outcome {
    let template = Template::child("nothing")?;
    let id = id_of(&template)?;
    let null = fs::File::open("/dev/null")?;
    let mut checks = Checks::default();
    for fd in [null.as_raw_fd(), 900, -1] {
        let result = template.spawn().run_at(fd, |args| {
            args.flags |= 8;
            args.template_id = id;
        });
        checks.refused(format!("descriptor {fd}"), result, &[libc::EBADF]);
    }
    checks.finish()
}
