// SPDX-License-Identifier: GPL-2.0

//! ELF metadata, parsed and checked.
//!
//! exec itself trusts the headers no further than it must and finds out about many lies only after
//! the point of no return. Here there is time to look at everything, once, so that a spawn from a
//! template fails for the template's sake only if the file changed.
//!
//! References: the System V gABI, chapters 4 and 5; `fs/binfmt_elf.c`.

use crate::exec_file::ExecFile;
use core::mem::offset_of;
use kernel::{
    bindings::{
        self,
        elf64_hdr,
        elf64_phdr, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// Length of the start of a file that exec looks at first.
const HEAD: usize = bindings::BINPRM_BUF_SIZE as usize;

/// exec reads no larger table of program headers.
const MAX_PHDRS_SIZE: usize = 65536;

/// Size of one program header.
const PHDR: usize = size_of::<elf64_phdr>();

/// First address that no segment may reach: the end of user memory with 5-level page tables. exec
/// checks against the limit of the machine.
const ADDRESS_LIMIT: u64 = (1 << 56) - (1 << 12);

/// The integer of `N` bytes at `offset`; `ENOEXEC` where there is none.
fn bytes<const N: usize>(data: &[u8], offset: usize) -> Result<[u8; N]> {
    let end = offset.checked_add(N).ok_or(ENOEXEC)?;
    data.get(offset..end)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(ENOEXEC)
}

fn u16_at(data: &[u8], offset: usize) -> Result<u16> {
    Ok(u16::from_le_bytes(bytes(data, offset)?))
}

fn u32_at(data: &[u8], offset: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(bytes(data, offset)?))
}

fn u64_at(data: &[u8], offset: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(bytes(data, offset)?))
}

/// What the ELF header says about the program headers.
struct Header {
    phoff: u64,
    phnum: usize,
}

impl Header {
    /// Accepts a 64-bit little-endian `ET_EXEC` or `ET_DYN` for x86-64, and says so from the whole
    /// identification, where exec looks at the magic and the machine only.
    fn parse(head: &[u8]) -> Result<Self> {
        const IDENT: &[u8] = b"\x7fELF\x02\x01\x01";

        if !head.starts_with(IDENT) {
            return Err(ENOEXEC);
        }
        let kind = u32::from(u16_at(head, offset_of!(elf64_hdr, e_type))?);
        if kind != bindings::ET_EXEC && kind != bindings::ET_DYN {
            return Err(ENOEXEC);
        }
        if u32::from(u16_at(head, offset_of!(elf64_hdr, e_machine))?) != bindings::EM_X86_64 {
            return Err(ENOEXEC);
        }
        if usize::from(u16_at(head, offset_of!(elf64_hdr, e_phentsize))?) != PHDR {
            return Err(ENOEXEC);
        }
        let phnum = usize::from(u16_at(head, offset_of!(elf64_hdr, e_phnum))?);
        if phnum == 0 || phnum * PHDR > MAX_PHDRS_SIZE {
            return Err(ENOEXEC);
        }
        Ok(Self {
            phoff: u64_at(head, offset_of!(elf64_hdr, e_phoff))?,
            phnum,
        })
    }
}

/// The fields of a program header that are checked here.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    vaddr: u64,
    filesz: u64,
    memsz: u64,
}

impl ProgramHeader {
    fn parse(phdr: &[u8]) -> Result<Self> {
        Ok(Self {
            kind: u32_at(phdr, offset_of!(elf64_phdr, p_type))?,
            offset: u64_at(phdr, offset_of!(elf64_phdr, p_offset))?,
            vaddr: u64_at(phdr, offset_of!(elf64_phdr, p_vaddr))?,
            filesz: u64_at(phdr, offset_of!(elf64_phdr, p_filesz))?,
            memsz: u64_at(phdr, offset_of!(elf64_phdr, p_memsz))?,
        })
    }

    /// Checks that what is in the file lies within its `size` bytes.
    fn check_in_file(&self, size: u64) -> Result {
        match self.offset.checked_add(self.filesz) {
            Some(end) if end <= size || self.filesz == 0 => Ok(()),
            _ => Err(ENOEXEC),
        }
    }

    /// Checks a `PT_LOAD` header.
    fn check_load(&self, size: u64) -> Result {
        self.check_in_file(size)?;
        if self.filesz > self.memsz {
            return Err(ENOEXEC);
        }
        match self.vaddr.checked_add(self.memsz) {
            Some(end) if end <= ADDRESS_LIMIT => Ok(()),
            _ => Err(ENOEXEC),
        }
    }
}

/// What stands at the start of an ELF file, and its program headers.
pub(crate) struct Headers {
    head: KBox<[u8; HEAD]>,
    phdrs: KVec<u8>,
}

impl Headers {
    /// Reads the headers of a file of `size` bytes.
    ///
    /// Fails with `ENOEXEC` unless they are those of a native ELF file, and with the error of the
    /// read if that fails.
    pub(crate) fn read(file: &ExecFile, size: u64) -> Result<Self> {
        let mut head = KBox::new([0; HEAD], GFP_KERNEL_ACCOUNT)?;
        file.read(&mut head[..], 0)?;
        let header = Header::parse(&head[..])?;

        let len = header.phnum * PHDR;
        match header.phoff.checked_add(len as u64) {
            Some(end) if end <= size => (),
            _ => return Err(ENOEXEC),
        }
        let mut phdrs = KVec::from_elem(0, len, GFP_KERNEL_ACCOUNT)?;
        file.read_exact(&mut phdrs, header.phoff)?;
        Ok(Self { head, phdrs })
    }

    /// The start of the file, padded with zeroes, of which the first part is the ELF header.
    pub(crate) fn head(&self) -> &[u8; HEAD] {
        &self.head
    }

    /// The program headers: as many as the ELF header says, each of the native size.
    pub(crate) fn phdrs(&self) -> &[u8] {
        &self.phdrs
    }

    /// How much memory they take beyond the object itself, in bytes.
    pub(crate) fn memory(&self) -> usize {
        HEAD + self.phdrs.capacity()
    }
}

/// Everything exec wants to know about the contents of an ELF executable before it maps it.
pub(crate) struct ElfImage {
    headers: Headers,
    interp: Option<Interp>,
}

/// What a `PT_INTERP` header refers to.
///
/// # Invariants
///
/// There is a NUL in `bytes`.
struct Interp {
    offset: u64,
    bytes: KVec<u8>,
}

impl Interp {
    /// Reads it from a file of `size` bytes; `ENOEXEC` where exec would not take it.
    fn read(file: &ExecFile, phdr: &ProgramHeader, size: u64) -> Result<Self> {
        phdr.check_in_file(size)?;
        let len = usize::try_from(phdr.filesz).map_err(|_| ENOEXEC)?;
        if !(2..=bindings::PATH_MAX as usize).contains(&len) {
            return Err(ENOEXEC);
        }
        let mut bytes = KVec::from_elem(0, len, GFP_KERNEL_ACCOUNT)?;
        file.read_exact(&mut bytes, phdr.offset)?;
        if bytes.last() != Some(&0) {
            return Err(ENOEXEC);
        }
        // INVARIANT: The last byte is one.
        Ok(Self {
            offset: phdr.offset,
            bytes,
        })
    }

    /// The interpreter's path: exec opens what stands before the first NUL.
    fn path(&self) -> &CStr {
        // By the type invariant there is a NUL.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }

    /// How much memory it takes beyond the object itself, in bytes.
    fn memory(&self) -> usize {
        self.bytes.capacity()
    }

    /// Where it stands in the file, and what it is.
    fn part(&self) -> (u64, &[u8]) {
        (self.offset, &self.bytes)
    }
}

/// The end of `len` bytes at `offset`, if it lies within the first page.
fn near_end(offset: u64, len: usize) -> Option<usize> {
    let end = usize::try_from(offset).ok()?.checked_add(len)?;
    (end <= PAGE_SIZE).then_some(end)
}

impl ElfImage {
    /// Reads and checks the metadata of a file of `size` bytes.
    ///
    /// Fails with `ENOEXEC` unless it is a well-formed native ELF executable, and with the error of
    /// the read if that fails.
    pub(crate) fn read(file: &ExecFile, size: u64) -> Result<Self> {
        let headers = Headers::read(file, size)?;

        let mut interp = None;
        let mut loadable = false;
        for phdr in headers.phdrs().chunks_exact(PHDR) {
            let phdr = ProgramHeader::parse(phdr)?;
            match phdr.kind {
                bindings::PT_LOAD => {
                    phdr.check_load(size)?;
                    loadable = true;
                }
                // exec takes the first and ignores others.
                bindings::PT_INTERP if interp.is_none() => {
                    interp = Some(Interp::read(file, &phdr, size)?);
                }
                _ => (),
            }
        }
        if !loadable {
            return Err(ENOEXEC);
        }

        Ok(Self { headers, interp })
    }

    /// Whether this still is what stands in the file; `ENOEXEC` if it has become too short for it.
    pub(crate) fn is_in(&self, file: &ExecFile) -> Result<bool> {
        let head = self.headers.head();
        let phoff = Header::parse(head)?.phoff;
        let parts = [
            Some((0, &head[..])),
            Some((phoff, self.headers.phdrs())),
            self.interp.as_ref().map(Interp::part),
        ];

        // One read will do as a rule: all of it stands near the start of the file.
        let near = parts
            .iter()
            .flatten()
            .filter_map(|(offset, bytes)| near_end(*offset, bytes.len()))
            .max();
        let mut start = KVec::from_elem(0, near.unwrap_or(0), GFP_KERNEL)?;
        file.read(&mut start, 0)?;
        for (offset, bytes) in parts.into_iter().flatten() {
            let same = match near_end(offset, bytes.len()) {
                Some(end) => start.get(..end).is_some_and(|now| now.ends_with(bytes)),
                None => {
                    let mut now = KVec::from_elem(0, bytes.len(), GFP_KERNEL)?;
                    file.read_exact(&mut now, offset)?;
                    now[..] == *bytes
                }
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How much memory it takes beyond the object itself, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.headers.memory() + self.interp.as_ref().map_or(0, Interp::memory)
    }

    /// The form exec takes it in, with the interpreter's headers and a record of pages, each of
    /// which may be null. Valid for as long as `self` is borrowed and they are valid.
    pub(crate) fn as_bprm_image(
        &self,
        interp_headers: *const bindings::bprm_interp,
        startup: *mut bindings::startup_pages,
    ) -> bindings::bprm_image {
        bindings::bprm_image {
            head: self.headers.head().as_ptr().cast(),
            phdrs: self.headers.phdrs().as_ptr().cast(),
            phdrs_size: self.headers.phdrs().len(),
            interp: self
                .interpreter()
                .map_or(core::ptr::null(), CStr::as_char_ptr),
            interp_headers,
            startup,
        }
    }

    /// Path of the program interpreter, if there is one.
    pub(crate) fn interpreter(&self) -> Option<&CStr> {
        self.interp.as_ref().map(Interp::path)
    }

    /// Number of program headers.
    pub(crate) fn phnum(&self) -> usize {
        self.headers.phdrs().len() / PHDR
    }
}
