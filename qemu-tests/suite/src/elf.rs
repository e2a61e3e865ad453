//! Programs with every field of their headers wrong, one at a time: refused with ENOEXEC, and never more than that.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;

use crate::harness::{Checks, Outcome, errno_name, failed, not_refused};
use crate::image::{BASE, GNU_STACK, Image, LOAD, NOTE, Segment};
use crate::os::{self, Status};
use crate::template::{Child, Folder, Template, child, set_mode};
use crate::{ensure, same, tests};

tests!("elf":
    valid_images, many_program_headers, program_headers_far_behind, wrong_ident, wrong_type, wrong_machine,
    other_architectures, wrong_header_size, wrong_header_count, wrong_header_offset, no_load, lying_sizes,
    addresses_out_of_range, wrong_interpreter, missing_interpreter, interpreter_errors_as_exec, not_elf,
    truncated_image [120], truncated_program [180], every_header_byte [300], random_headers [300],
    interpreter_with_one_letter, interpreter_that_changes,
);

/// A folder with one file that changes its content all the time.
struct Bench {
    _folder: Folder,
    path: String,
}

impl Bench {
    fn new(name: &str) -> io::Result<Bench> {
        let folder = Folder::tmp(name)?;
        let path = folder.join("program");
        Ok(Bench { _folder: folder, path })
    }

    /// Writes the file anew; it is another file each time, so no earlier template is meant.
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::write(&self.path, bytes)?;
        set_mode(&self.path, 0o755)
    }

    /// Writes it and makes a template of it, by path and by descriptor, which must agree.
    fn template(&self, bytes: &[u8]) -> io::Result<Template> {
        self.write(bytes)?;
        let by_fd = Template::of_fd(&File::open(&self.path)?);
        let by_path = Template::path(&self.path);
        let error = |result: &io::Result<Template>| result.as_ref().err().and_then(io::Error::raw_os_error);
        if error(&by_fd) != error(&by_path) {
            let errors = format!("by path {:?}, by fd {:?}", error(&by_path), error(&by_fd));
            return Err(io::Error::other(errors));
        }
        by_path
    }

    /// Wants every image to be refused with ENOEXEC.
    fn all_refused(&self, images: impl IntoIterator<Item = (String, Image)>) -> Outcome {
        let mut checks = Checks::default();
        for (what, image) in images {
            checks.refused(what, self.template(&image.bytes()), &[libc::ENOEXEC]);
        }
        checks.finish()
    }

    /// Wants every image to be accepted, and its process to exit with 42.
    fn all_run(&self, images: impl IntoIterator<Item = (String, Image)>) -> Outcome {
        let mut checks = Checks::default();
        for (what, image) in images {
            let status = self.template(&image.bytes()).and_then(|template| template.status());
            if let Some(status) = checks.accepted(&what, status)
                && status != Status::Exited(42)
            {
                checks.fail(format!("{what}: {status:?}"));
            }
        }
        checks.finish()
    }
}

/// A valid image with one change.
fn changed(what: impl Into<String>, base: &Image, change: impl FnOnce(&mut Image)) -> (String, Image) {
    let mut image = base.clone();
    change(&mut image);
    (what.into(), image)
}

fn valid_images() -> Outcome {
    let base = Image::new(&[Segment::default()]);
    let segment = |kind, flags| Segment { kind, flags, ..Default::default() };
    Bench::new("elf-valid")?.all_run([
        ("ET_EXEC".into(), Image::new(&[])),
        ("ET_DYN".into(), Image::dynamic()),
        ("PT_NULL".into(), base.clone()),
        ("stack".into(), Image::new(&[segment(GNU_STACK, 6)])),
        ("executable stack".into(), Image::new(&[segment(GNU_STACK, 7)])),
        ("note".into(), Image::new(&[Segment { filesz: 16, memsz: 16, ..segment(NOTE, 4) }])),
        ("unknown type".into(), Image::new(&[segment(0x6fff_ffff, 4)])),
        changed("bss", &base, |i| {
            (i.segments[0].flags, i.segments[0].memsz) = (7, 0x5000);
        }),
        changed("second segment", &base, |i| {
            let size = i.segments[0].filesz;
            i.segments[1] = Segment { kind: LOAD, flags: 6, vaddr: BASE + 0x10000, memsz: 0x2000, ..i.segments[0] };
            i.segments[1].filesz = size;
        }),
        changed("segment without file", &base, |i| {
            i.segments[1] =
                Segment { kind: LOAD, flags: 6, vaddr: BASE + 0x10000, memsz: 0x2000, ..Default::default() };
        }),
        changed("junk behind", &base, |i| i.tail = vec![0xff; 10_000]),
        changed("OS ABI", &base, |i| i.ident[7] = 3),
    ])
}

fn many_program_headers() -> Outcome {
    let bench = Bench::new("elf-many")?;
    let with = |count: usize| Image::new(&vec![Segment { kind: GNU_STACK, flags: 6, ..Default::default() }; count - 1]);
    bench.all_run([2, 10, 72, 73, 100, 1000, 1170].map(|n| (format!("{n} headers"), with(n))))?;
    bench.all_refused([1171, 1172, 2000, 10_000, 65_534, 65_535].map(|n| (format!("{n} headers"), with(n))))
}

/// The table may lie anywhere in the file.
fn program_headers_far_behind() -> Outcome {
    let bench = Bench::new("elf-far")?;
    let mut checks = Checks::default();
    for gap in [0, 1, 7, 100, 256, 4000, 4096, 5000, 100_000] {
        let image = Image::new(&[]);
        let mut bytes = image.bytes();
        bytes.resize(bytes.len() + gap, 0xee);
        let phoff = bytes.len() as u64;
        bytes.extend_from_within(64..120);
        bytes[32..40].copy_from_slice(&phoff.to_le_bytes());
        // What was the table is not one any more.
        bytes[64..120].fill(0xee);
        let status = bench.template(&bytes).and_then(|template| template.status());
        if let Some(status) = checks.accepted(format!("table at {phoff}"), status)
            && status != Status::Exited(42)
        {
            checks.fail(format!("table at {phoff}: {status:?}"));
        }
        // The same with the end cut off.
        for cut in [1, 55, 56] {
            let result = bench.template(&bytes[..bytes.len() - cut]);
            checks.refused(format!("table at {phoff}, {cut} bytes short"), result, &[libc::ENOEXEC]);
        }
    }
    checks.finish()
}

fn wrong_ident() -> Outcome {
    let base = Image::new(&[]);
    let magic = (0..4).flat_map(|i| {
        let base = base.clone();
        [0, 0xff, b'#'].map(move |value| changed(format!("ident[{i}] {value}"), &base, |image| image.ident[i] = value))
    });
    let class = [0, 1, 3, 0xff].map(|value| changed(format!("class {value}"), &base, |image| image.ident[4] = value));
    Bench::new("elf-ident")?.all_refused(magic.chain(class))
}

fn wrong_type() -> Outcome {
    let base = Image::new(&[]);
    let kinds = [0, 1, 4, 5, 0xfe00, 0xff00, 0xffff, 0x0200, 0x0300];
    Bench::new("elf-type")?.all_refused(kinds.map(|kind| changed(format!("type {kind}"), &base, |i| i.kind = kind)))
}

fn wrong_machine() -> Outcome {
    let base = Image::new(&[]);
    let machines = [0, 3, 6, 40, 61, 63, 183, 243, 0xffff, 62 << 8];
    let changed = |machine| changed(format!("machine {machine}"), &base, |i| i.machine = machine);
    Bench::new("elf-machine")?.all_refused(machines.map(changed))
}

/// A 32-bit program, which this kernel could start, is none of ours.
fn other_architectures() -> Outcome {
    let mut bytes = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([2u16, 3].iter().flat_map(|field| field.to_le_bytes()));
    let code = 52 + 32;
    bytes.extend([1u32, 0x0804_8000 + code, 52, 0, 0].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend([52u16, 32, 1, 0, 0, 0].iter().flat_map(|field| field.to_le_bytes()));
    let size = code + 12;
    bytes.extend([1u32, 0, 0x0804_8000, 0x0804_8000, size, size, 5, 0x1000].iter().flat_map(|f| f.to_le_bytes()));
    // mov $1,%eax; mov $42,%ebx; int $0x80
    bytes.extend([0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80]);
    let bench = Bench::new("elf-i386")?;
    let mut checks = Checks::default();
    checks.refused("i386", bench.template(&bytes), &[libc::ENOEXEC]);
    bytes[18] = 62;
    checks.refused("x32", bench.template(&bytes), &[libc::ENOEXEC]);
    checks.finish()
}

fn wrong_header_size() -> Outcome {
    let base = Image::new(&[]);
    let sizes = [0, 1, 32, 55, 57, 64, 112, 0xffff];
    let changed = |size| changed(format!("phentsize {size}"), &base, |i| i.phentsize = size);
    Bench::new("elf-phentsize")?.all_refused(sizes.map(changed))
}

fn wrong_header_count() -> Outcome {
    let base = Image::new(&[]);
    let counts = [0, 2, 3, 1170, 1171, 0x7fff, 0xfffe, 0xffff];
    Bench::new("elf-phnum")?.all_refused(counts.map(|n| changed(format!("phnum {n}"), &base, |i| i.phnum = n)))
}

fn wrong_header_offset() -> Outcome {
    let base = Image::new(&[]);
    let size = base.bytes().len() as u64;
    let offsets = [
        size - 55,
        size - 1,
        size,
        size + 1,
        4096,
        1 << 31,
        u64::from(u32::MAX) - 55,
        1 << 32,
        (1 << 32) + 64,
        i64::MAX as u64 - 56,
        i64::MAX as u64 - 55,
        i64::MAX as u64,
        1 << 63,
        (1 << 63) + 64,
        u64::MAX - 56,
        u64::MAX - 55,
        u64::MAX,
    ];
    Bench::new("elf-phoff")?.all_refused(offsets.map(|o| changed(format!("phoff {o:#x}"), &base, |i| i.phoff = o)))
}

fn no_load() -> Outcome {
    let base = Image::new(&[Segment { kind: GNU_STACK, flags: 6, ..Default::default() }]);
    Bench::new("elf-no-load")?.all_refused(
        [0, NOTE, GNU_STACK, 6, 2]
            .map(|kind| changed(format!("only type {kind:#x}"), &base, |i| i.segments[0].kind = kind)),
    )
}

fn lying_sizes() -> Outcome {
    let base = Image::new(&[Segment { kind: NOTE, ..Default::default() }]);
    let memsz = base.segments[0].memsz;
    let first = |what: &str, change: fn(&mut Segment)| changed(what, &base, |i| change(&mut i.segments[0]));
    let second = |what: &str, filesz, memsz| {
        changed(format!("second, {what}"), &base, |i| {
            i.segments[1] =
                Segment { kind: LOAD, flags: 6, vaddr: BASE + 0x10000, filesz, memsz, ..Default::default() };
        })
    };
    Bench::new("elf-sizes")?.all_refused([
        first("filesz one more than memsz", |s| s.filesz = s.memsz + 1),
        first("memsz 0", |s| s.memsz = 0),
        first("memsz one less", |s| s.memsz -= 1),
        first("filesz huge", |s| s.filesz = u64::MAX),
        first("memsz huge", |s| s.memsz = u64::MAX),
        first("both huge", |s| (s.filesz, s.memsz) = (u64::MAX, u64::MAX)),
        first("memsz reaches the end of addresses", |s| s.memsz = u64::MAX - s.vaddr),
        first("memsz wraps to 0", |s| s.memsz = 0u64.wrapping_sub(s.vaddr)),
        first("memsz of the sign bit", |s| s.memsz = 1 << 63),
        second("filesz more than memsz", memsz, memsz - 1),
        second("memsz huge", 0, u64::MAX - 0xfff),
    ])
}

fn addresses_out_of_range() -> Outcome {
    let base = Image::new(&[]);
    let at = |vaddr| changed(format!("vaddr {vaddr:#x}"), &base, |i| i.segments[0].vaddr = vaddr);
    let bench = Bench::new("elf-vaddr")?;
    bench.all_refused([1 << 56, 1 << 63, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000, u64::MAX - 0xfff].map(at))?;
    // Whether these can be mapped depends on the processor's page tables.
    for vaddr in [0, 0x1000, 0x7fff_ffff_e000, 0x7fff_ffff_f000, 1 << 47, 1 << 48, (1 << 56) - 0x2000] {
        let (what, image) = at(vaddr);
        compare_with_exec(&bench, &what, &image.bytes())?;
    }
    Ok(())
}

fn wrong_interpreter() -> Outcome {
    let base = Image::with_interpreter(b"/lib64/ld-linux-x86-64.so.2");
    let size = base.bytes().len() as u64;
    let interp = |what: &str, change: &dyn Fn(&mut Segment)| changed(what, &base, |i| change(&mut i.segments[1]));
    let tail = |what: &str, tail: Vec<u8>| {
        changed(what, &base, |i| {
            (i.segments[1].filesz, i.segments[1].memsz) = (tail.len() as u64, tail.len() as u64);
            i.tail = tail;
        })
    };
    let bench = Bench::new("elf-interp")?;
    bench.all_refused([
        interp("offset at the end", &|s| s.offset = size),
        interp("one byte beyond the end", &|s| s.offset += 1),
        interp("offset beyond the end", &|s| s.offset = 1 << 20),
        interp("offset of 2^32", &|s| s.offset += 1 << 32),
        interp("offset of the sign bit", &|s| s.offset += 1 << 63),
        interp("offset that overflows", &|s| s.offset = u64::MAX - 2),
        interp("largest offset", &|s| s.offset = i64::MAX as u64),
        interp("size 0", &|s| s.filesz = 0),
        interp("size 1", &|s| s.filesz = 1),
        interp("no NUL", &|s| s.filesz -= 1),
        interp("beyond the end", &|s| s.filesz += 1),
        interp("size of 2^32", &|s| s.filesz += 1 << 32),
        interp("size huge", &|s| s.filesz = u64::MAX),
        tail("longer than a path", [vec![b'/'; 4096], vec![0]].concat()),
        tail("only a NUL", vec![0]),
        tail("no NUL at all", vec![b'/'; 100]),
    ])?;
    // The longest path that may be, and none that exists: it is refused where it is looked up.
    let (_, longest) = tail("", [vec![b'/'; 4095], vec![0]].concat());
    let result = bench.template(&longest.bytes()).and_then(|template| template.status());
    ensure!(result.is_err(), "an interpreter that is a folder was accepted: {result:?}");
    Ok(())
}

/// What execve() of a path says: its error, or nothing when the process got as far as being replaced.
fn exec_error(path: &str) -> Outcome<Option<i32>> {
    let path = os::c_path(path);
    let (reader, writer) = os::pipe()?;
    let pid = os::fork()?;
    if pid == 0 {
        let error = os::execve(&path, &[CString::default()], &[]).raw_os_error().unwrap_or_default();
        let _ = io::Write::write_all(&mut File::from(writer), &error.to_le_bytes());
        os::exit_now(0);
    }
    drop(writer);
    // The descriptor is close-on-exec: the end of file means that the exec went through.
    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes)?;
    let pidfd = os::pidfd_open(pid)?;
    if !os::readable(pidfd.as_raw_fd(), 5_000)? {
        os::kill(pid, libc::SIGKILL)?;
    }
    os::waitpid(pid, 0)?;
    Ok(bytes.try_into().ok().map(i32::from_le_bytes))
}

/// Ends a process that may never end by itself.
fn end(child: Child) -> io::Result<Status> {
    if !os::readable(child.pidfd.as_raw_fd(), 5_000)? {
        os::kill(child.pid, libc::SIGKILL)?;
    }
    child.wait()
}

/// Tries a file both ways. Nothing that execve() refuses may start; what it starts may be refused as ENOEXEC, because
/// templates are stricter about headers.
fn compare_with_exec(bench: &Bench, what: &str, bytes: &[u8]) -> Outcome {
    let result = bench.template(bytes).and_then(|template| template.spawn().run());
    let refused = match result {
        Ok(child) => {
            end(child)?;
            None
        }
        Err(e) => Some(e.raw_os_error().ok_or_else(|| failed(format!("{what}: {e}")))?),
    };
    ensure!(!os::has_children()?, "{what}: a child is left");
    match (refused, exec_error(&bench.path)?) {
        (None, None) => {}
        (None, Some(e)) => return Err(failed(format!("{what}: started, but execve() says {}", errno_name(e)))),
        (Some(libc::ENOEXEC), _) => {}
        (Some(a), Some(b)) if a == b => {}
        // Past the point of no return execve() kills the process, and a spawn reports why.
        (Some(_), None) => {}
        (Some(a), Some(b)) => {
            return Err(failed(format!("{what}: {}, but execve() says {}", errno_name(a), errno_name(b))));
        }
    }
    Ok(())
}

/// An interpreter that is not there is an error when the template is made or when it is used, but no child.
fn missing_interpreter() -> Outcome {
    let bench = Bench::new("elf-no-interp")?;
    for (path, errors) in [
        ("/missing/ld.so", [libc::ENOENT, libc::ENOENT]),
        ("relative-ld.so", [libc::ENOENT, libc::ENOEXEC]),
        ("/etc/passwd/ld.so", [libc::ENOTDIR, libc::ENOTDIR]),
        ("/etc/passwd", [libc::EACCES, libc::EACCES]),
        ("/usr", [libc::EACCES, libc::EACCES]),
    ] {
        let image = Image::with_interpreter(path.as_bytes());
        let result = bench.template(&image.bytes()).and_then(|template| template.spawn().run());
        if let Some(problem) = not_refused(result, &errors) {
            return Err(failed(format!("interpreter {path}: {problem}")));
        }
        ensure!(!os::has_children()?, "interpreter {path}: a child is left");
    }
    Ok(())
}

fn interpreter_errors_as_exec() -> Outcome {
    let bench = Bench::new("elf-bad-interp")?;
    let folder = Folder::tmp("elf-interpreters")?;
    let write = |name: &str, bytes: &[u8]| -> io::Result<String> {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        set_mode(&path, 0o755)?;
        Ok(path)
    };
    let valid = Image::dynamic();
    let paths = [
        write("text", b"no program, but longer than a header would be if it were one, which it is not at all, no no")?,
        write("empty", b"")?,
        write("short", &valid.bytes()[..63])?,
        write("cut", &valid.bytes()[..100])?,
        write("script", b"#!/bin/sh\n")?,
        write("machine", &changed("", &valid, |i| i.machine = 3).1.bytes())?,
        write("phentsize", &changed("", &valid, |i| i.phentsize = 32).1.bytes())?,
        write("phnum", &changed("", &valid, |i| i.phnum = 0).1.bytes())?,
        write("relocatable", &changed("", &valid, |i| i.kind = 1).1.bytes())?,
        write("good", &valid.bytes())?,
        "/dev/null".to_owned(),
    ];
    for path in paths {
        compare_with_exec(&bench, &path, &Image::with_interpreter(path.as_bytes()).bytes())?;
    }
    Ok(())
}

/// The shortest interpreter path there is room for.
fn interpreter_with_one_letter() -> Outcome {
    let bench = Bench::new("elf-letter")?;
    let folder = Folder::tmp("elf-letter-cwd")?;
    let path = folder.join("i");
    fs::write(&path, Image::dynamic().bytes())?;
    set_mode(&path, 0o755)?;
    std::env::set_current_dir(folder.path())?;
    let image = Image::with_interpreter(b"i");
    bench.write(&image.bytes())?;
    same!(exec_error(&bench.path)?, None, "execve");
    // Relative to the child's folder, as in exec; refusing such a path is fine too.
    match bench.template(&image.bytes()).and_then(|template| template.status()) {
        Ok(status) => same!(status, Status::Exited(42), "status"),
        Err(e) => same!(e.raw_os_error(), Some(libc::ENOEXEC), "error"),
    }
    std::env::set_current_dir("/")?;
    Ok(())
}

/// The interpreter is the one that its path leads to at each spawn, with the contents that it has then.
fn interpreter_that_changes() -> Outcome {
    let bench = Bench::new("elf-interp-changes")?;
    let folder = Folder::tmp("elf-changing-interpreter")?;
    let path = folder.join("interpreter");
    let exiting = |status: u8, more_headers: usize| {
        let mut image = Image::new(&vec![Segment::default(); more_headers]);
        image.kind = 3;
        image.entry -= BASE;
        image.segments[0].vaddr = 0;
        image.exiting(status).bytes()
    };
    let put = |path: &str, bytes: &[u8]| fs::write(path, bytes).and_then(|()| set_mode(path, 0o755));
    let replace = |bytes: &[u8]| {
        let new = folder.join("new");
        put(&new, bytes)?;
        fs::rename(new, &path)
    };

    put(&path, &exiting(1, 0))?;
    let template = bench.template(&Image::with_interpreter(path.as_bytes()).bytes())?;
    let twice = |status, what: &str| -> Outcome {
        same!(template.status()?, Status::Exited(status), "status, {what}");
        same!(template.status()?, Status::Exited(status), "status once more, {what}");
        Ok(())
    };
    twice(1, "as it was")?;
    put(&path, &exiting(2, 0))?;
    twice(2, "rewritten in place")?;
    put(&path, &exiting(3, 2))?;
    twice(3, "rewritten with more program headers")?;
    replace(&exiting(4, 1))?;
    twice(4, "replaced")?;
    replace(&exiting(1, 0))?;
    twice(1, "replaced by what it was at first")?;

    replace(b"text")?;
    let error = exec_error(&bench.path)?;
    ensure!(error.is_some(), "a text was accepted as an interpreter");
    same!(template.status().map_err(|e| e.raw_os_error()), Err(error), "error with a text");
    fs::remove_file(&path)?;
    same!(template.status().map_err(|e| e.raw_os_error()), Err(Some(libc::ENOENT)), "error without it");
    put(&path, &exiting(5, 0))?;
    twice(5, "there again")
}

fn not_elf() -> Outcome {
    let bench = Bench::new("elf-none")?;
    let mut checks = Checks::default();
    for (what, bytes) in [
        ("empty", vec![]),
        ("one byte", vec![0x7f]),
        ("magic only", b"\x7fELF".to_vec()),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("text", b"all work and no play\n".repeat(50)),
        ("shell script", b"#!/bin/sh\nexit 0\n".to_vec()),
        ("archive", b"!<arch>\n".repeat(20)),
        ("PE", [&b"MZ"[..], &[0; 200]].concat()),
        ("one MiB of zeros", vec![0; 1 << 20]),
    ] {
        checks.refused(what, bench.template(&bytes), &[libc::ENOEXEC]);
    }
    checks.finish()
}

/// Every length from nothing to everything of a small program with an interpreter.
fn truncated_image() -> Outcome {
    let bench = Bench::new("elf-cut")?;
    let image = Image::with_interpreter(b"/lib64/ld-linux-x86-64.so.2");
    let bytes = image.bytes();
    for length in 0..bytes.len() {
        // The interpreter's path is last in the file, so no shorter one is whole.
        match not_refused(bench.template(&bytes[..length]), &[libc::ENOEXEC]) {
            Some(problem) => return Err(failed(format!("first {length} of {} bytes: {problem}", bytes.len()))),
            None => ensure!(!os::has_children()?, "a child is left"),
        }
    }
    same!(bench.template(&bytes).is_ok(), true, "the whole file is accepted");
    let plain = Image::new(&[]).bytes();
    for length in 0..plain.len() {
        if length < 120 {
            if let Some(problem) = not_refused(bench.template(&plain[..length]), &[libc::ENOEXEC]) {
                return Err(failed(format!("first {length} of a plain image: {problem}")));
            }
        } else {
            compare_with_exec(&bench, &format!("first {length} of a plain image"), &plain[..length])?;
        }
    }
    Ok(())
}

/// A real dynamic program, cut off at many places: as a process it may crash, the kernel may not.
fn truncated_program() -> Outcome {
    let bench = Bench::new("elf-cut-true")?;
    for program in ["/bin/true".to_owned(), child("static0")] {
        let bytes = fs::read(&program)?;
        let mut length = 0;
        while length < bytes.len() {
            compare_with_exec(&bench, &format!("first {length} of {program}"), &bytes[..length])?;
            length += if length < 1024 { 61 } else { 1 + length / 6 };
        }
    }
    Ok(())
}

/// Each byte of the headers replaced by several values; whatever execve() refuses is refused here.
fn every_header_byte() -> Outcome {
    let bench = Bench::new("elf-bytes")?;
    let folder = Folder::tmp("elf-bytes-interp")?;
    let interpreter = folder.join("i");
    fs::write(&interpreter, Image::dynamic().bytes())?;
    set_mode(&interpreter, 0o755)?;
    let good = Image::with_interpreter(interpreter.as_bytes()).bytes();
    for at in 0..64 + 2 * 56 {
        for value in [0, 0xff, good[at] ^ 0x80, good[at].wrapping_add(1)] {
            if value == good[at] {
                continue;
            }
            let mut bytes = good.clone();
            bytes[at] = value;
            compare_with_exec(&bench, &format!("byte {at} is {value:#x}"), &bytes)?;
        }
    }
    Ok(())
}

/// Headers with several random fields wrong at once, from a fixed seed.
fn random_headers() -> Outcome {
    let bench = Bench::new("elf-random")?;
    let good = Image::new(&[
        Segment { kind: LOAD, flags: 6, vaddr: BASE + 0x10000, memsz: 0x2000, ..Default::default() },
        Segment { kind: NOTE, flags: 4, filesz: 20, memsz: 20, ..Default::default() },
        Segment { kind: GNU_STACK, flags: 6, ..Default::default() },
    ]);
    let good = good.bytes();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..250 {
        let mut bytes = good.clone();
        for _ in 0..1 + random() % 4 {
            let at = 16 + (random() % (good.len() as u64 - 40)) as usize;
            let interesting = [0, 1, 0xffff_ffff_ffff_ffff, 1 << 63, i64::MAX as u64, 0x1000, random()];
            let value = interesting[(random() % 7) as usize].to_le_bytes();
            let width = 1 << (random() % 4);
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        compare_with_exec(&bench, &format!("round {round}"), &bytes)?;
    }
    Ok(())
}
