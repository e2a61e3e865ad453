//! User and group IDs, supplementary groups and privileges of the child: RESETIDS, SETUID, SETGID, SETGROUPS,
//! NO_NEW_PRIVS. The kernel's own checks apply, and those of exec count for the ids the child has by then.

use std::fs;
use std::os::unix::fs::chown;

use crate::failing::{Failing, Failure, Stage};
use crate::harness::{Outcome, failed, in_worker};
use crate::nowait::Gate;
use crate::os::{self, Status};
use crate::show::Show;
use crate::template::{Act, Folder, Open, Template, set_mode};
use crate::{ensure, same, tests};

tests!("ids":
    setuid_of_root, setgid_of_root, setgroups_sets, setgroups_clears, setgroups_most, all_three_in_order, caller_keeps_its_ids,
    setuid_first_gives_rights_up, invalid_ids, users_may_not, users_may_keep_their_own, saved_ids_may_be_taken, resetids, resetids_of_equal_ids,
    unmapped_ids, setgroups_denied_by_namespace, setuid_counts_for_open, setuid_counts_for_exec, setuid_counts_for_the_path, setuid_counts_for_the_process_limit,
    setuid_program_after_setuid, no_new_privs, no_new_privs_and_setuid_program, securebits_keep_capabilities, not_dumpable_before_exec,
);

/// Real, effective, saved and file system ids of user and group that `show` reports.
fn ids(show: &Show) -> (Vec<i64>, Vec<i64>) {
    (show.numbers("status.Uid"), show.numbers("status.Gid"))
}

/// What `show` sees after these actions, inheriting or not.
fn show(acts: &[Act], inherit: bool) -> Outcome<Show> {
    Template::child("show")?.spawn().acts(acts.iter().cloned()).inherit(inherit).show()
}

fn setuid_of_root() -> Outcome {
    for inherit in [false, true] {
        let show = show(&[Act::Setuid(12345)], inherit)?;
        same!(ids(&show), (vec![12345; 4], vec![0; 4]), "ids");
        same!((show.mask("status.CapEff"), show.mask("status.CapPrm")), (0, 0), "capabilities");
    }
    let root = show(&[Act::Setuid(0)], false)?;
    same!(root.numbers("status.Uid"), [0; 4], "user ids");
    ensure!(root.mask("status.CapEff") != 0, "root has lost its capabilities");
    same!(show(&[Act::Setuid(0xffff_fffe)], false)?.numbers("status.Uid"), [0xffff_fffe; 4], "the highest id");
    Ok(())
}

fn setgid_of_root() -> Outcome {
    for inherit in [false, true] {
        let show = show(&[Act::Setgid(12346)], inherit)?;
        same!(ids(&show), (vec![0; 4], vec![12346; 4]), "ids");
        ensure!(show.mask("status.CapEff") != 0, "a change of the group took capabilities");
    }
    same!(show(&[Act::Setgid(0xffff_fffe)], false)?.numbers("status.Gid"), [0xffff_fffe; 4], "the highest id");
    Ok(())
}

fn setgroups_sets() -> Outcome {
    os::setgroups(&[1, 2])?;
    for inherit in [false, true] {
        let show = show(&[Act::Setgroups(vec![30, 10, 20, 10])], inherit)?;
        same!(show.numbers("status.Groups"), [10, 10, 20, 30], "groups");
        same!(ids(&show), (vec![0; 4], vec![0; 4]), "ids");
    }
    same!(show(&[], false)?.numbers("status.Groups"), [1, 2], "inherited groups");
    Ok(())
}

fn setgroups_clears() -> Outcome {
    os::setgroups(&[1, 2])?;
    same!(show(&[Act::Setgroups(vec![])], false)?.get("status.Groups"), "", "groups");
    let twice = [Act::Setgroups(vec![5]), Act::Setgroups(vec![]), Act::Setgroups(vec![6])];
    same!(show(&twice, false)?.numbers("status.Groups"), [6], "groups set three times");
    Ok(())
}

/// As many as there may be, and the kernel sorts them.
fn setgroups_most() -> Outcome {
    let groups: Vec<u32> = (0..65_536).rev().collect();
    let folder = Folder::tmp("most-groups")?;
    let path = folder.join("for-the-last");
    fs::write(&path, "")?;
    chown(&path, Some(0), Some(65_535))?;
    set_mode(&path, 0o040)?;
    set_mode(folder.path(), 0o755)?;
    let open = Act::Open(Open::new(&path, libc::O_RDONLY, 5));
    let template = Template::child("nothing")?;
    let spawn = template.spawn().acts([Act::Setgroups(groups), Act::Setuid(12345), open.clone()]);
    same!(spawn.status()?, Status::Exited(0), "status of a member of all groups");
    let mut failing = Failing::new()?;
    let spawn = template.spawn().acts([Act::Setgroups(vec![65_534]), Act::Setuid(12345), open]);
    failing.both("a member of another group", &spawn, Failure::action(2, libc::EACCES));
    failing.finish()
}

/// What a login program does.
fn all_three_in_order() -> Outcome {
    let acts = [Act::Setgroups(vec![100, 50]), Act::Setgid(1000), Act::Setuid(1001)];
    for inherit in [false, true] {
        let show = show(&acts, inherit)?;
        same!(ids(&show), (vec![1001; 4], vec![1000; 4]), "ids");
        same!(show.numbers("status.Groups"), [50, 100], "groups");
        same!(show.mask("status.CapEff"), 0, "capabilities");
        same!(show.get("secure"), "0", "AT_SECURE");
    }
    Ok(())
}

fn caller_keeps_its_ids() -> Outcome {
    let template = Template::child("nothing")?;
    let lines = || -> std::io::Result<Vec<String>> {
        let text = fs::read_to_string("/proc/thread-self/status")?;
        let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:"];
        Ok(text.lines().filter(|line| wanted.iter().any(|w| line.starts_with(w))).map(str::to_owned).collect())
    };
    let before = lines()?;
    let acts = [Act::Setgroups(vec![7]), Act::Setgid(7), Act::NoNewPrivs, Act::Setuid(7)];
    same!(template.spawn().acts(acts.clone()).status()?, Status::Exited(0), "status");
    template.spawn().acts(acts).act(Act::Dup2(900, 1)).run().err();
    same!(lines()?, before, "the caller's ids and privileges");
    same!(template.status()?, Status::Exited(0), "status of a spawn afterwards");
    Ok(())
}

fn setuid_first_gives_rights_up() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    for (what, act) in
        [("SETGID", Act::Setgid(5)), ("SETGROUPS", Act::Setgroups(vec![5])), ("SETUID back", Act::Setuid(0))]
    {
        let spawn = template.spawn().acts([Act::Setuid(12345), act]);
        failing.both(format!("{what} after SETUID"), &spawn, Failure::action(1, libc::EPERM));
    }
    failing.finish()
}

/// -1 is no id; the ids are checked against the child's user namespace, the groups against the caller's.
fn invalid_ids() -> Outcome {
    let template = Template::child("nothing")?;
    let mut failing = Failing::new()?;
    let none = u64::from(u32::MAX);
    failing.both("SETUID", &template.spawn().act(Act::Setuid(none)), Failure::action(0, libc::EINVAL));
    failing.both("SETGID", &template.spawn().act(Act::Setgid(none)), Failure::action(0, libc::EINVAL));
    for groups in [vec![u32::MAX], vec![1, 2, u32::MAX], vec![u32::MAX, 1]] {
        let spawn = template.spawn().acts([Act::Close(500), Act::Setgroups(groups)]);
        failing.both("SETGROUPS", &spawn, Failure::wrong(1, libc::EINVAL));
    }
    failing.finish()
}

fn users_may_not() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        for (what, act) in [
            ("SETUID 0", Act::Setuid(0)),
            ("SETUID of another", Act::Setuid(12346)),
            ("SETGID 0", Act::Setgid(0)),
            ("SETGID of another", Act::Setgid(12346)),
            ("SETGROUPS of nothing", Act::Setgroups(vec![])),
            ("SETGROUPS of the own group", Act::Setgroups(vec![12345])),
        ] {
            failing.both(what, &template.spawn().act(act.clone()), Failure::action(0, libc::EPERM));
            let spawn = template.spawn().acts([Act::Close(500), act]);
            failing.both(format!("{what}, second"), &spawn, Failure::action(1, libc::EPERM));
        }
        failing.finish()
    })
}

fn users_may_keep_their_own() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        let show = show(&[Act::Setgid(12345), Act::Setuid(12345), Act::Resetids], false)?;
        same!(ids(&show), (vec![12345; 4], vec![12345; 4]), "ids");
        Ok(())
    })
}

/// setuid(2) lets a user without privileges take the saved id.
fn saved_ids_may_be_taken() -> Outcome {
    in_worker(|| {
        os::setgroups(&[])?;
        os::setresgid(100, 100, 200)?;
        os::setresuid(1000, 1000, 2000)?;
        // The saved id becomes the effective one, and exec makes that the saved one.
        let show = show(&[Act::Setgid(200), Act::Setuid(2000)], false)?;
        same!(ids(&show), (vec![1000, 2000, 2000, 2000], vec![100, 200, 200, 200]), "ids");
        same!(show.get("secure"), "1", "AT_SECURE");
        Ok(())
    })
}

/// The program has the ids of the user who started the set-id caller.
fn resetids() -> Outcome {
    in_worker(|| {
        os::setgroups(&[])?;
        os::setresgid(12346, 0, 0)?;
        os::setresuid(12345, 0, 0)?;
        let plain = show(&[], false)?;
        same!(ids(&plain), (vec![12345, 0, 0, 0], vec![12346, 0, 0, 0]), "ids without it");
        for inherit in [false, true] {
            let show = show(&[Act::Resetids], inherit)?;
            same!(ids(&show), (vec![12345; 4], vec![12346; 4]), "ids");
            same!(show.mask("status.CapEff"), 0, "capabilities");
            same!(show.get("secure"), "0", "AT_SECURE");
        }
        Ok(())
    })
}

fn resetids_of_equal_ids() -> Outcome {
    let show = show(&[Act::Resetids], false)?;
    same!(ids(&show), (vec![0; 4], vec![0; 4]), "ids");
    ensure!(show.mask("status.CapEff") != 0, "root has lost its capabilities");
    Ok(())
}

/// In a user namespace without a map no id is one.
fn unmapped_ids() -> Outcome {
    in_worker(|| {
        os::unshare(libc::CLONE_NEWUSER)?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        failing.both("SETUID", &template.spawn().act(Act::Setuid(0)), Failure::action(0, libc::EINVAL));
        failing.both("SETGID", &template.spawn().act(Act::Setgid(0)), Failure::action(0, libc::EINVAL));
        let groups = template.spawn().act(Act::Setgroups(vec![0]));
        failing.both("SETGROUPS", &groups, Failure::wrong(0, libc::EINVAL));
        failing.finish()
    })
}

fn setgroups_denied_by_namespace() -> Outcome {
    in_worker(|| {
        os::become_user(12345)?;
        os::unshare(libc::CLONE_NEWUSER)?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", "0 12345 1")?;
        fs::write("/proc/self/gid_map", "0 12345 1")?;
        let template = Template::child("nothing")?;
        let mut failing = Failing::new()?;
        for groups in [vec![], vec![0]] {
            let spawn = template.spawn().act(Act::Setgroups(groups));
            failing.both("SETGROUPS where it is denied", &spawn, Failure::action(0, libc::EPERM));
        }
        failing.finish()?;
        same!(template.spawn().acts([Act::Setgid(0), Act::Setuid(0)]).status()?, Status::Exited(0), "mapped ids");
        Ok(())
    })
}

/// What an action may open depends on who the child is when its turn comes.
fn setuid_counts_for_open() -> Outcome {
    let folder = Folder::tmp("setuid-open")?;
    let (secret, own) = (folder.join("secret"), folder.join("own"));
    for (path, owner) in [(&secret, 0), (&own, 12345)] {
        fs::write(path, "")?;
        chown(path, Some(owner), Some(owner))?;
        set_mode(path, 0o600)?;
    }
    set_mode(folder.path(), 0o777)?;
    let template = Template::child("nothing")?;
    let open = |path: &str| Act::Open(Open::new(path, libc::O_RDWR, 5));
    let before = template.spawn().acts([open(&secret), Act::Setuid(12345), open(&own)]);
    same!(before.status()?, Status::Exited(0), "opening root's file before SETUID");
    let mut failing = Failing::new()?;
    let after = template.spawn().acts([Act::Setuid(12345), open(&own), open(&secret)]);
    failing.both("opening root's file after SETUID", &after, Failure::action(2, libc::EACCES));
    let enter = template.spawn().acts([Act::Setuid(12345), Act::chdir("/root")]);
    set_mode("/root", 0o700)?;
    failing.both("entering root's folder after SETUID", &enter, Failure::action(1, libc::EACCES));
    failing.finish()?;
    let create = Open::new(folder.join("new"), libc::O_WRONLY | libc::O_CREAT, 5).mode(0o600);
    same!(
        template.spawn().acts([Act::Setgid(12346), Act::Setuid(12345), Act::Open(create)]).status()?,
        Status::Exited(0),
        "creating a file"
    );
    let metadata = fs::metadata(folder.join("new"))?;
    let owner = (std::os::unix::fs::MetadataExt::uid(&metadata), std::os::unix::fs::MetadataExt::gid(&metadata));
    same!(owner, (12345, 12346), "owner of the new file");
    Ok(())
}

/// A template is no way to start what the child may not execute.
fn setuid_counts_for_exec() -> Outcome {
    let folder = Folder::new("/var/tmp", "setuid-exec")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("nothing")?;
    set_mode(&path, 0o700)?;
    let file = fs::File::open(&path)?;
    let (by_path, by_fd) = (Template::path(&path)?, Template::of_fd(&file)?);
    let mut failing = Failing::new()?;
    for (what, template) in [("by path", &by_path), ("by descriptor", &by_fd)] {
        let spawn = template.spawn().act(Act::Setuid(12345));
        failing.both(format!("root's program {what}"), &spawn, Failure::at(Stage::Exec, libc::EACCES));
    }
    failing.finish()?;
    same!(by_path.status()?, Status::Exited(0), "status for root");
    let template = {
        set_mode(&path, 0o711)?;
        Template::path(&path)?
    };
    same!(template.spawn().act(Act::Setuid(12345)).status()?, Status::Exited(0), "status with the right for others");
    Ok(())
}

/// Nor is it one past a folder that the child may not search.
fn setuid_counts_for_the_path() -> Outcome {
    let folder = Folder::new("/var/tmp", "setuid-path")?;
    let path = folder.copy("nothing")?;
    set_mode(folder.path(), 0o700)?;
    let template = Template::path(&path)?;
    let mut failing = Failing::new()?;
    let spawn = template.spawn().act(Act::Setuid(12345));
    failing.both("a program behind root's folder", &spawn, Failure::at(Stage::Exec, libc::EACCES));
    failing.finish()?;
    same!(template.status()?, Status::Exited(0), "status for root");
    Ok(())
}

/// As after setuid(2): a user who has too many processes by then cannot execute a program.
fn setuid_counts_for_the_process_limit() -> Outcome {
    let sleep = Template::child("sleep")?;
    let running = [(); 2].map(|()| sleep.spawn().act(Act::Setuid(23456)).run());
    let template = Template::child("nothing")?;
    let spawn = template.spawn().acts([Act::Rlimit(libc::RLIMIT_NPROC, 1, 1), Act::Setuid(23456)]);
    for inherit in [false, true] {
        let (child, result) = spawn.clone().inherit(inherit).report();
        crate::harness::refused("a third process of the user", child, libc::EAGAIN)?;
        same!((result.stage, result.action), (Stage::Exec as u32, -1), "stage and action");
    }
    drop(running);
    same!(spawn.status()?, Status::Exited(0), "status of the only process of the user");
    Ok(())
}

/// A set-user-ID program takes its owner's id as whatever user the child runs.
fn setuid_program_after_setuid() -> Outcome {
    let folder = Folder::new("/var/tmp", "setuid-after")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("show-static")?;
    chown(&path, Some(777), Some(0))?;
    set_mode(&path, 0o4755)?;
    let template = Template::path(&path)?;
    let show = template.spawn().act(Act::Setuid(12345)).show()?;
    same!(show.numbers("status.Uid"), [12345, 777, 777, 777], "user ids");
    same!(show.get("secure"), "1", "AT_SECURE");
    Ok(())
}

fn no_new_privs() -> Outcome {
    for inherit in [false, true] {
        same!(show(&[Act::NoNewPrivs], inherit)?.get("status.NoNewPrivs"), "1", "NoNewPrivs");
    }
    same!(show(&[], false)?.get("status.NoNewPrivs"), "0", "NoNewPrivs without the action");
    in_worker(|| {
        os::become_user(12345)?;
        same!(show(&[Act::NoNewPrivs], false)?.get("status.NoNewPrivs"), "1", "NoNewPrivs of a user's child");
        Ok(())
    })
}

fn no_new_privs_and_setuid_program() -> Outcome {
    let folder = Folder::new("/var/tmp", "nnp-setuid")?;
    set_mode(folder.path(), 0o755)?;
    let path = folder.copy("show-static")?;
    set_mode(&path, 0o4755)?;
    in_worker(|| {
        os::become_user(12345)?;
        let template = Template::path(&path)?;
        same!(template.spawn().show()?.get("euid"), "0", "effective user of the set-user-ID program");
        let show = template.spawn().act(Act::NoNewPrivs).show()?;
        same!((show.get("euid"), show.get("secure")), ("12345", "0"), "effective user and AT_SECURE");
        Ok(())
    })
}

/// SECBIT_NO_SETUID_FIXUP: capabilities survive the change of the user, and exec gives them up or not as it always does.
fn securebits_keep_capabilities() -> Outcome {
    in_worker(|| {
        const NO_SETUID_FIXUP: u64 = 1 << 2;
        os::prctl(libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0)?;
        let template = Template::child("nothing")?;
        // With the capabilities kept until exec, a later SETGID is allowed.
        let spawn = template.spawn().acts([Act::Setuid(12345), Act::Setgid(5), Act::Setgroups(vec![6])]);
        same!(spawn.status()?, Status::Exited(0), "status");
        same!(show(&[Act::Setuid(12345)], false)?.mask("status.CapEff"), 0, "capabilities after exec");
        Ok(())
    })
}

/// Until it has its program, a child that has become another user is none of that user's business: it may have
/// descriptors of its caller's that the user must not reach through /proc.
fn not_dumpable_before_exec() -> Outcome {
    let gate = Gate::new("dumpable")?;
    let acts = [Act::Setgroups(vec![]), Act::Setgid(12345), Act::Setuid(12345), gate.action()];
    let child = Template::child("sleep")?.spawn().acts(acts).nowait().run()?;
    let fds = format!("/proc/{}/fd", child.pid);
    let until = |what: &str, done: &dyn Fn() -> std::io::Result<bool>| -> Outcome {
        for _ in 0..400 {
            if done()? {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Err(failed(format!("the child never {what}")))
    };
    let status = format!("/proc/{}/status", child.pid);
    until("changed its ids", &|| Ok(fs::read_to_string(&status)?.contains("Uid:\t12345")))?;
    same!(error_for_user(&fds)?, Some(libc::EACCES), "error of listing its descriptors");
    gate.open()?;
    until("executed its program", &|| Ok(fs::read_to_string(format!("/proc/{}/comm", child.pid))? == "sleep\n"))?;
    same!(error_for_user(&fds)?, None, "error of listing the program's descriptors");
    Ok(())
}

/// What the user 12345 gets for listing a folder; [`in_worker`] would end this process's children.
fn error_for_user(path: &str) -> Outcome<Option<i32>> {
    let pid = os::fork()?;
    if pid == 0 {
        let result = os::become_user(12345).and_then(|()| fs::read_dir(path).map(drop));
        os::exit_now(result.err().map_or(0, |e| e.raw_os_error().unwrap_or(255)));
    }
    match os::waitpid(pid, 0)?.1 {
        Status::Exited(0) => Ok(None),
        Status::Exited(error) => Ok(Some(error)),
        other => Err(failed(format!("the user's process ended with {other:?}"))),
    }
}
