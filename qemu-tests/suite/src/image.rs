//! Writes small ELF programs byte by byte, so that tests can get every field of them wrong.

/// `PT_LOAD`.
pub const LOAD: u32 = 1;
/// `PT_INTERP`.
pub const INTERP: u32 = 3;
/// `PT_NOTE`.
pub const NOTE: u32 = 4;
/// `PT_GNU_STACK`.
pub const GNU_STACK: u32 = 0x6474_e551;

/// Where an `ET_EXEC` of ours is loaded.
pub const BASE: u64 = 0x40_0000;

/// exit(0): `mov $60,%eax; mov $0,%edi; syscall; ud2`.
const CODE: [u8; 14] = [0xb8, 60, 0, 0, 0, 0xbf, 0, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b];
/// Where in the code the status stands.
const STATUS: usize = 6;

/// A program header.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`, and `p_paddr` likewise.
    pub vaddr: u64,
    /// `p_filesz`.
    pub filesz: u64,
    /// `p_memsz`.
    pub memsz: u64,
    /// `p_align`.
    pub align: u64,
}

/// A program: header, program headers, then code that exits with a status, 42 as a rule, then `tail`.
#[derive(Clone, Debug)]
pub struct Image {
    /// `e_ident`.
    pub ident: [u8; 16],
    /// `e_type`.
    pub kind: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_entry`.
    pub entry: u64,
    /// `e_phoff`.
    pub phoff: u64,
    /// `e_phentsize`.
    pub phentsize: u16,
    /// `e_phnum`.
    pub phnum: u16,
    /// The program headers, written right after the header whatever `phoff` says.
    pub segments: Vec<Segment>,
    /// The status that the program exits with.
    pub status: u8,
    /// Bytes after the code.
    pub tail: Vec<u8>,
}

impl Image {
    /// A valid static `ET_EXEC` with one segment that covers the file, and room for `extra` more program headers.
    pub fn new(extra: &[Segment]) -> Image {
        let mut segments = vec![Segment { kind: LOAD, flags: 5, vaddr: BASE, align: 0x1000, ..Default::default() }];
        segments.extend_from_slice(extra);
        let code = 64 + 56 * segments.len() as u64;
        let size = code + CODE.len() as u64;
        segments[0].filesz = size;
        segments[0].memsz = size;
        Image {
            ident: *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
            kind: 2,
            machine: 62,
            entry: BASE + code,
            phoff: 64,
            phentsize: 56,
            phnum: segments.len() as u16,
            segments,
            status: 42,
            tail: Vec::new(),
        }
    }

    /// A valid `ET_DYN` without interpreter.
    pub fn dynamic() -> Image {
        let mut image = Image::new(&[]);
        image.kind = 3;
        image.entry -= BASE;
        image.segments[0].vaddr = 0;
        image
    }

    /// The same, exiting with another status.
    pub fn exiting(mut self, status: u8) -> Image {
        self.status = status;
        self
    }

    /// A program whose interpreter is `path`; its `PT_INTERP` is segment 1.
    pub fn with_interpreter(path: &[u8]) -> Image {
        let mut image = Image::new(&[Segment { kind: INTERP, flags: 4, align: 1, ..Default::default() }]);
        image.tail = path.to_vec();
        image.tail.push(0);
        let offset = image.segments[0].filesz;
        let size = image.tail.len() as u64;
        let interp = &mut image.segments[1];
        (interp.offset, interp.vaddr, interp.filesz, interp.memsz) = (offset, BASE + offset, size, size);
        image.segments[0].filesz += size;
        image.segments[0].memsz += size;
        image
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.ident.to_vec();
        out.extend(self.kind.to_le_bytes());
        out.extend(self.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        out.extend(self.entry.to_le_bytes());
        out.extend(self.phoff.to_le_bytes());
        out.extend([0; 12]); // e_shoff, e_flags
        for field in [64, self.phentsize, self.phnum, 0, 0, 0] {
            out.extend(field.to_le_bytes());
        }
        for segment in &self.segments {
            out.extend(segment.kind.to_le_bytes());
            out.extend(segment.flags.to_le_bytes());
            let Segment { offset, vaddr, filesz, memsz, align, .. } = *segment;
            for field in [offset, vaddr, vaddr, filesz, memsz, align] {
                out.extend(field.to_le_bytes());
            }
        }
        let mut code = CODE;
        code[STATUS] = self.status;
        out.extend(code);
        out.extend(&self.tail);
        out
    }
}

#[cfg(test)]
mod unit {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Runs an image on this machine's own kernel.
    fn run(name: &str, image: &Image) -> Option<i32> {
        let path = std::env::temp_dir().join(format!("guest-suite-{name}-{}", std::process::id()));
        fs::write(&path, image.bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's fork may hold the file open for writing for a moment.
        let status = loop {
            match Command::new(&path).status() {
                Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) => {}
                other => break other.unwrap(),
            }
        };
        fs::remove_file(&path).unwrap();
        status.code()
    }

    #[test]
    fn images_run() {
        assert_eq!(run("exec", &Image::new(&[])), Some(42));
        assert_eq!(run("dyn", &Image::dynamic()), Some(42));
        let stack = Segment { kind: GNU_STACK, flags: 6, ..Default::default() };
        assert_eq!(run("stack", &Image::new(&[stack])), Some(42));
    }

    #[test]
    fn sizes() {
        let image = Image::new(&[]);
        assert_eq!(image.bytes().len() as u64, image.segments[0].filesz);
        let image = Image::with_interpreter(b"/lib64/ld-linux-x86-64.so.2");
        assert_eq!(image.bytes().len() as u64, image.segments[0].filesz);
    }
}
