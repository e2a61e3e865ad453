//! What a program learns about itself is what it would after fork and execve of the same path.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};

use crate::harness::{Outcome, in_worker};
use crate::os;
use crate::show::Show;
use crate::template::{Folder, Template, child, show_by_exec};
use crate::{ensure, same, tests};

tests!("identity":
    as_after_exec_dynamic, as_after_exec_static, as_after_exec_static_pie, as_after_exec_with_everything_changed,
    as_after_exec_for_user, through_symlink, path_with_dots, long_name, of_fd, of_fd_without_name, names_of_path_template,
    command_line_is_argv, attributes_are_inherited, no_new_privileges_are_kept, address_space_is_its_own, root_directory,
);

/// Keys that differ between any two processes.
const OWN: &[&str] = &["pid", "fd"];

/// Arguments and environment of both runs.
fn vectors() -> ([CString; 3], [CString; 2]) {
    ([c"zeroth".into(), c"first".into(), c"".into()], [c"A=1".into(), c"LANG=C".into()])
}

/// Starts `path` both ways and compares everything.
#[track_caller]
fn compare(template: &Template, traditional: Show) -> Outcome<Show> {
    let (argv, envp) = vectors();
    let text = |c: &CString| c.to_string_lossy().into_owned();
    let show = template.spawn().argv(argv.iter().map(text)).envp(envp.iter().map(text)).show()?;
    let place = crate::harness::failed("compared with exec");
    if show.without(OWN) != traditional.without(OWN) || show.fd_numbers() != traditional.fd_numbers() {
        let (spawned, executed) = (show.without(OWN), traditional.without(OWN));
        let differences: Vec<_> = spawned.iter().zip(&executed).filter(|(a, b)| a != b).collect();
        return Err(crate::harness::failed(format!(
            "{place:?}: (spawned, executed): {differences:?}; descriptors {:?}, {:?}",
            show.fd_numbers(),
            traditional.fd_numbers()
        )));
    }
    Ok(show)
}

#[track_caller]
fn compare_path(path: &str) -> Outcome<Show> {
    let (argv, envp) = vectors();
    let c_path = os::c_path(path);
    let traditional = show_by_exec(|| os::execve(&c_path, &argv, &envp))?;
    compare(&Template::path(path)?, traditional)
}

fn as_after_exec_dynamic() -> Outcome {
    let show = compare_path(&child("show"))?;
    same!(show.get("base"), "yes", "a loaded interpreter");
    Ok(())
}

fn as_after_exec_static() -> Outcome {
    compare_path(&child("show-static")).map(drop)
}

fn as_after_exec_static_pie() -> Outcome {
    compare_path(&child("show-static-pie")).map(drop)
}

fn as_after_exec_with_everything_changed() -> Outcome {
    os::umask(0o137);
    os::set_rlimit(libc::RLIMIT_NOFILE, 777)?;
    os::set_rlimit(libc::RLIMIT_STACK, 3 << 20)?;
    os::set_signal(libc::SIGUSR1, libc::SIG_IGN, 0)?;
    os::set_sigmask(os::sigbit(libc::SIGUSR2))?;
    os::setgroups(&[5, 7, 9])?;
    os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    os::prctl(libc::PR_SET_NAME, c"renamed".as_ptr() as u64, 0)?;
    os::prctl(libc::PR_SET_DUMPABLE, 0, 0)?;
    fs::write("/proc/self/oom_score_adj", "321")?;
    std::env::set_current_dir("/usr")?;
    // SAFETY: personality() takes a number.
    unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
    // SAFETY: nice() takes a number.
    unsafe { libc::nice(7) };
    let show = compare_path(&child("show"))?;
    same!(show.get("umask"), "0137", "umask");
    same!(show.get("nice"), "7", "nice value");
    same!(show.get("status.Groups").split_whitespace().collect::<Vec<_>>(), ["5", "7", "9"], "groups");
    same!(show.get("oom_score_adj"), "321", "oom_score_adj");
    same!(show.get("personality"), "00040000", "personality");
    Ok(())
}

fn as_after_exec_for_user() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let show = compare_path(&child("show"))?;
        same!((show.get("uid"), show.get("euid")), ("12345", "12345"), "user");
        same!(show.mask("status.CapEff"), 0, "capabilities");
        Ok(())
    })
}

fn through_symlink() -> Outcome {
    let folder = Folder::tmp("link-name")?;
    let link = folder.join("another-name");
    symlink(child("show"), &link)?;
    let show = compare_path(&link)?;
    same!(show.get("execfn"), link, "AT_EXECFN");
    same!(show.get("comm"), "another-name", "comm");
    same!(show.get("exe"), child("show"), "exe");
    Ok(())
}

fn path_with_dots() -> Outcome {
    let path = "/payload/../payload/./children//show";
    same!(compare_path(path)?.get("execfn"), path, "AT_EXECFN");
    Ok(())
}

fn long_name() -> Outcome {
    let folder = Folder::tmp("long-name")?;
    for length in [15, 16, 255] {
        let name = "n".repeat(length);
        fs::hard_link(folder.copy("show")?, folder.join(&name))?;
        let show = compare_path(&folder.join(&name))?;
        same!(show.get("comm"), &name[..length.min(15)], "comm");
        fs::remove_file(folder.join(&name))?;
    }
    Ok(())
}

/// An fd template has no path of its own; all but AT_EXECFN is as after execveat() of the descriptor.
fn of_fd() -> Outcome {
    let (argv, envp) = vectors();
    let file = File::open(child("show"))?;
    let traditional = show_by_exec(|| os::fexecve(file.as_raw_fd(), &argv, &envp))?;
    let template = Template::of_fd(&file)?;
    let text = |c: &CString| c.to_string_lossy().into_owned();
    let show = template.spawn().argv(argv.iter().map(text)).envp(envp.iter().map(text)).show()?;
    let keys = [OWN, &["execfn", "execfn.inode"]].concat();
    same!(show.without(&keys), traditional.without(&keys), "everything but AT_EXECFN");
    same!(show.get("comm"), "show", "comm");
    Ok(())
}

fn of_fd_without_name() -> Outcome {
    let folder = Folder::tmp("no-name")?;
    let path = folder.copy("show")?;
    let file = File::open(&path)?;
    fs::remove_file(&path)?;
    let show = Template::of_fd(&file)?.spawn().show()?;
    same!(show.get("exe"), format!("{path} (deleted)"), "exe");
    // Its name leads to it all the same.
    same!(show.get("execfn.inode"), file.metadata()?.ino().to_string(), "inode of AT_EXECFN {:?}", show.get("execfn"));
    Ok(())
}

fn names_of_path_template() -> Outcome {
    let show = Template::child("show")?.spawn().argv(["other", "x"]).show()?;
    same!(show.get("execfn"), child("show"), "AT_EXECFN");
    same!(show.get("exe"), child("show"), "exe");
    same!(show.get("comm"), "show", "comm");
    Ok(())
}

fn command_line_is_argv() -> Outcome {
    let show = Template::child("show")?.spawn().argv(["zero", "", "two words"]).show()?;
    same!(show.get("cmdline"), "zero\\x00\\x00two words\\x00", "cmdline");
    Ok(())
}

fn attributes_are_inherited() -> Outcome {
    os::umask(0o051);
    os::set_rlimit(libc::RLIMIT_NOFILE, 543)?;
    let show = Template::child("show")?.spawn().show()?;
    same!(show.get("umask"), "0051", "umask");
    same!(show.limit(libc::RLIMIT_NOFILE).first().copied(), Some(543), "RLIMIT_NOFILE");
    same!(show.get("status.Threads"), "1", "threads");
    same!(show.get("status.TracerPid"), "0", "tracer");
    Ok(())
}

fn no_new_privileges_are_kept() -> Outcome {
    let template = Template::child("show")?;
    same!(template.spawn().show()?.get("status.NoNewPrivs"), "0", "NoNewPrivs");
    os::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    same!(template.spawn().show()?.get("status.NoNewPrivs"), "1", "NoNewPrivs after setting it");
    Ok(())
}

/// What the child does to its memory does not reach the caller's, and the caller's mappings do not reach the child.
fn address_space_is_its_own() -> Outcome {
    let shared = os::memfd(c"spawn-template-mapping")?;
    shared.set_len(4096)?;
    // SAFETY: a new mapping at an address of the kernel's choice; it stays until this process ends.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), 4096, 3, libc::MAP_SHARED, shared.as_raw_fd(), 0) };
    ensure!(address != libc::MAP_FAILED, "mmap failed");
    let (_, output) = Template::path("/bin/cat")?.spawn().argv(["cat", "/proc/self/maps"]).output()?;
    let maps = String::from_utf8_lossy(&output);
    ensure!(maps.contains("/bin/cat"), "the child's maps lack its program: {maps}");
    ensure!(!maps.contains("spawn-template-mapping"), "the caller's mapping is in the child");
    ensure!(!maps.contains("guest-suite"), "the caller's program is in the child");
    Ok(())
}

fn root_directory() -> Outcome {
    in_worker(|| {
        let template = Template::of_fd(&File::open(child("show-static"))?)?;
        let proc_root = Folder::tmp("root")?;
        os::private_mounts()?;
        fs::create_dir(proc_root.join("proc"))?;
        os::mount("proc", proc_root.join("proc"), "proc", 0, "")?;
        let outside = File::open("/")?;
        std::os::unix::fs::chroot(proc_root.path())?;
        std::env::set_current_dir("/")?;
        let show = template.spawn().show();
        // Back, so that the folder can be removed.
        // SAFETY: fchdir() takes a descriptor that is open.
        unsafe { libc::fchdir(outside.as_raw_fd()) };
        std::os::unix::fs::chroot(".")?;
        os::unmount(proc_root.join("proc"))?;
        same!(show?.get("cwd"), "/", "working directory of a child in a new root");
        Ok(())
    })
}
