//! Who may use a template, and programs that change who they run as.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;

use crate::harness::{Checks, Outcome, in_worker, refused};
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Folder, Template, child, set_mode, show_by_exec};
use crate::{ensure, same, tests};

tests!("credentials":
    forked_worker, other_user, other_group, other_supplementary_groups, fewer_capabilities, smaller_bounding_set,
    other_securebits, user_namespace, same_ids_set_again, effective_id_there_and_back, ids_that_do_not_matter,
    passed_over_socket, passed_to_other_user, survives_exec, threads_share_it, setuid_program, setgid_program,
    setuid_on_nosuid_mount, setuid_with_no_new_privs, file_capabilities, created_by_user,
);

/// No id.
const KEEP: u32 = u32::MAX;

fn forked_worker() -> Outcome {
    let template = Template::child("exit-code")?;
    in_worker(|| {
        same!(template.spawn().arg("3").status()?, Status::Exited(3), "status in a worker");
        in_worker(|| {
            same!(template.spawn().arg("4").status()?, Status::Exited(4), "status in a worker's worker");
            Ok(())
        })
    })?;
    same!(template.counts()?, (2, 0), "spawns and failures, seen by the creator");
    Ok(())
}

/// After `change`, a template of before is not this process's any more.
fn foreign_after(change: impl FnOnce() -> std::io::Result<()>) -> Outcome {
    let template = Template::child("nothing")?;
    in_worker(|| {
        same!(template.status()?, Status::Exited(0), "status before");
        change()?;
        refused("with other credentials", template.status(), libc::EACCES)?;
        refused("an inheriting one", template.spawn().inherit_fds().run(), libc::EACCES)?;
        ensure!(!os::has_children()?, "a child is left");
        same!(Template::child("nothing")?.status()?, Status::Exited(0), "status of a template of its own");
        Ok(())
    })?;
    same!(template.status()?, Status::Exited(0), "status for the creator");
    Ok(())
}

fn other_user() -> Outcome {
    foreign_after(|| os::become_user(12345))?;
    foreign_after(|| os::setresuid(KEEP, 12345, KEEP))?;
    foreign_after(|| os::setresuid(12345, KEEP, KEEP))?;
    foreign_after(|| os::setresuid(KEEP, KEEP, 12345))
}

fn other_group() -> Outcome {
    foreign_after(|| {
        // SAFETY: setresgid() takes numbers.
        let result = unsafe { libc::setresgid(KEEP, 12345, KEEP) };
        if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    })
}

fn other_supplementary_groups() -> Outcome {
    os::setgroups(&[1, 2])?;
    foreign_after(|| os::setgroups(&[1]))?;
    foreign_after(|| os::setgroups(&[1, 3]))?;
    foreign_after(|| os::setgroups(&[]))
}

/// Drops CAP_SYS_BOOT (22) from the effective set.
fn drop_effective() -> std::io::Result<()> {
    // _LINUX_CAPABILITY_VERSION_3, this process; effective, permitted and inheritable, low and high.
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    // SAFETY: header and data have the layout that version 3 prescribes.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    data[0] &= !(1 << 22);
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn fewer_capabilities() -> Outcome {
    foreign_after(drop_effective)
}

fn smaller_bounding_set() -> Outcome {
    foreign_after(|| os::prctl(libc::PR_CAPBSET_DROP, 22, 0))
}

fn other_securebits() -> Outcome {
    // SECBIT_NOROOT
    foreign_after(|| os::prctl(libc::PR_SET_SECUREBITS, 1, 0))
}

fn user_namespace() -> Outcome {
    let template = Template::child("nothing")?;
    in_worker(|| {
        os::unshare(libc::CLONE_NEWUSER)?;
        refused("in a new user namespace", template.status(), libc::EACCES)
    })
}

/// Setting ids to what they are makes new credentials with the same content.
fn same_ids_set_again() -> Outcome {
    os::setgroups(&[3, 1, 2])?;
    let template = Template::child("nothing")?;
    in_worker(|| {
        os::setresuid(0, 0, 0)?;
        // The kernel sorts groups.
        os::setgroups(&[1, 2, 3])?;
        same!(template.status()?, Status::Exited(0), "status");
        Ok(())
    })
}

fn effective_id_there_and_back() -> Outcome {
    let template = Template::child("nothing")?;
    in_worker(|| {
        os::setresuid(KEEP, 12345, KEEP)?;
        refused("away", template.status(), libc::EACCES)?;
        os::setresuid(KEEP, 0, KEEP)?;
        same!(template.status()?, Status::Exited(0), "status, back again");
        Ok(())
    })
}

/// What is not part of the credentials may change.
fn ids_that_do_not_matter() -> Outcome {
    let template = Template::child("nothing")?;
    in_worker(|| {
        os::umask(0o777);
        os::prctl(libc::PR_SET_NAME, c"other".as_ptr() as u64, 0)?;
        os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
        os::private_mounts()?;
        // SAFETY: setsid() has no preconditions.
        unsafe { libc::setsid() };
        same!(template.status()?, Status::Exited(0), "status");
        Ok(())
    })
}

fn passed_over_socket() -> Outcome {
    let (ours, theirs) = os::socketpair()?;
    in_worker(|| {
        let template = Template::child("exit-code")?;
        Ok(os::send_fd(theirs.as_raw_fd(), template.raw())?)
    })?;
    let template = Template { fd: os::receive_fd(ours.as_raw_fd())? };
    same!(template.spawn().arg("6").status()?, Status::Exited(6), "status");
    same!(template.counts()?, (1, 0), "spawns and failures");
    Ok(())
}

fn passed_to_other_user() -> Outcome {
    let (ours, theirs) = os::socketpair()?;
    let template = Template::child("nothing")?;
    os::send_fd(theirs.as_raw_fd(), template.raw())?;
    in_worker(|| {
        os::become_user(12345)?;
        let received = Template { fd: os::receive_fd(ours.as_raw_fd())? };
        refused("received by another user", received.status(), libc::EACCES)
    })?;
    // Nor the other way round: root does not start what a user has prepared.
    let (ours, theirs) = os::socketpair()?;
    in_worker(|| {
        os::become_user(12345)?;
        Ok(os::send_fd(theirs.as_raw_fd(), Template::child("nothing")?.raw())?)
    })?;
    let received = Template { fd: os::receive_fd(ours.as_raw_fd())? };
    refused("received by root", received.status(), libc::EACCES)
}

/// A template without close-on-exec stays usable after exec: this program, executed again, would find it. Here a forked
/// worker executes a child through it and the kernel keeps the file alive.
fn survives_exec() -> Outcome {
    let template = Template::child("nothing")?;
    os::set_cloexec(template.raw(), false)?;
    let shell = Template::path("/bin/sh")?;
    let script = format!("grep -c '^spawns:' /proc/self/fdinfo/{}", template.raw());
    let (status, output) =
        shell.spawn().argv(["sh", "-c", &script]).envp(["PATH=/bin:/usr/bin"]).inherit_fds().output()?;
    same!((status, output), (Status::Exited(0), b"1\n".to_vec()), "lines that count spawns, seen after exec");
    Ok(())
}

fn threads_share_it() -> Outcome {
    let template = Template::child("nothing")?;
    let result = std::thread::scope(|scope| scope.spawn(|| template.status()).join());
    let status = result.map_err(|_| crate::harness::failed("the thread panicked"))??;
    same!(status, Status::Exited(0), "status from another thread");
    Ok(())
}

/// Keys that differ between any two processes.
const OWN: &[&str] = &["pid", "fd"];

/// Runs `path` both ways, as the user 12345, and compares who it runs as.
fn as_exec_for_user(path: &str) -> Outcome<Show> {
    let (reader, writer) = os::pipe()?;
    in_worker(|| {
        os::become_user(12345)?;
        let c_path = os::c_path(path);
        let argv = [c"child".to_owned()];
        let traditional = show_by_exec(|| os::execve(&c_path, &argv, &[]))?;
        let show = Template::path(path)?.spawn().show()?;
        same!(show.without(OWN), traditional.without(OWN), "what the program saw, against exec");
        let text: String = show.without(&["fd"]).iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        Ok(std::io::Write::write_all(&mut File::from(writer.try_clone()?), text.as_bytes())?)
    })?;
    drop(writer);
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut File::from(reader), &mut text)?;
    Ok(Show::parse(&text))
}

/// A copy of `show` in a folder that everybody may enter.
fn public_copy(name: &str) -> Outcome<(Folder, String)> {
    let folder = Folder::new("/var/tmp", name)?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("show-static")?;
    Ok((folder, path))
}

fn setuid_program() -> Outcome {
    let (_folder, path) = public_copy("setuid")?;
    for owner in [0, 777] {
        chown(&path, Some(owner), Some(0))?;
        set_mode(&path, 0o4755)?;
        let show = as_exec_for_user(&path)?;
        same!((show.get("uid"), show.get("euid")), ("12345", owner.to_string().as_str()), "user ids");
        same!(show.get("secure"), "1", "AT_SECURE");
    }
    Ok(())
}

fn setgid_program() -> Outcome {
    let (_folder, path) = public_copy("setgid")?;
    chown(&path, Some(0), Some(888))?;
    set_mode(&path, 0o2755)?;
    let show = as_exec_for_user(&path)?;
    same!((show.get("gid"), show.get("egid")), ("12345", "888"), "group ids");
    same!(show.get("secure"), "1", "AT_SECURE");
    Ok(())
}

fn setuid_on_nosuid_mount() -> Outcome {
    os::private_mounts()?;
    let folder = Folder::tmp("nosuid")?;
    os::mount("tmpfs", folder.path(), "tmpfs", libc::MS_NOSUID, "mode=755")?;
    let path = folder.copy("show-static")?;
    set_mode(&path, 0o4755)?;
    let show = as_exec_for_user(&path)?;
    os::unmount(folder.path())?;
    same!((show.get("euid"), show.get("secure")), ("12345", "0"), "effective user and AT_SECURE");
    Ok(())
}

fn setuid_with_no_new_privs() -> Outcome {
    let (_folder, path) = public_copy("setuid-nnp")?;
    set_mode(&path, 0o4755)?;
    os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    same!(as_exec_for_user(&path)?.get("euid"), "12345", "effective user");
    Ok(())
}

fn file_capabilities() -> Outcome {
    let (_folder, path) = public_copy("filecap")?;
    // VFS_CAP_REVISION_2 with the effective bit, then permitted CAP_NET_RAW (13), nothing inheritable.
    let words = [0x0200_0001u32, 1 << 13, 0, 0, 0];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    os::setxattr(&path, c"security.capability", &value)?;
    let show = as_exec_for_user(&path)?;
    same!(show.mask("status.CapEff"), 1 << 13, "effective capabilities");
    same!(show.get("secure"), "1", "AT_SECURE");
    Ok(())
}

fn created_by_user() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let mut checks = Checks::default();
        for name in ["nothing", "static0", "static-pie", "dynamic0"] {
            checks.accepted(name, Template::child(name).and_then(|template| template.status()));
        }
        let file = File::open(child("nothing"))?;
        checks.accepted("by fd", Template::of_fd(&file).and_then(|template| template.status()));
        checks.finish()
    })?;
    ensure!(fs::exists(child("nothing"))?, "the child programs are still there");
    Ok(())
}
