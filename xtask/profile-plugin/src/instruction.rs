//! The few instructions that mean something here.

use crate::mark;

/// What an instruction does, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Calls: writes a return address to the stack.
    Call,
    /// Returns: reads one from there.
    Return,
    /// Begins a sample.
    Begin,
    /// Ends it.
    End,
    /// Everything else.
    Other,
}

/// Reads the bytes of one 64-bit instruction.
pub fn kind(bytes: &[u8]) -> Kind {
    if let Some(displacement) = bytes.strip_prefix(&mark::OPCODE) {
        return match displacement.try_into().map(u32::from_le_bytes) {
            Ok(mark::BEGIN) => Kind::Begin,
            Ok(mark::END) => Kind::End,
            _ => Kind::Other,
        };
    }
    let is_prefix = |byte: &u8| matches!(byte, 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf2 | 0xf3);
    let start = bytes.iter().position(|byte| !is_prefix(byte)).unwrap_or(bytes.len());
    match bytes[start..] {
        [0xe8, ..] => Kind::Call,
        // The middle bits of the second byte tell the call from seven other instructions.
        [0xff, operand, ..] if operand >> 3 & 7 == 2 => Kind::Call,
        [0xc3] | [0xc2, _, _] => Kind::Return,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_returns_are_recognised() {
        assert_eq!(kind(&[0xe8, 1, 2, 3, 4]), Kind::Call);
        assert_eq!(kind(&[0xff, 0xd0]), Kind::Call, "call *%rax");
        assert_eq!(kind(&[0x41, 0xff, 0xd3]), Kind::Call, "call *%r11");
        assert_eq!(kind(&[0x2e, 0x2e, 0xff, 0x15, 0, 0, 0, 0]), Kind::Call, "call *0(%rip)");
        assert_eq!(kind(&[0xff, 0xe0]), Kind::Other, "jmp *%rax");
        assert_eq!(kind(&[0xff, 0x30]), Kind::Other, "push (%rax)");
        assert_eq!(kind(&[0xe9, 1, 2, 3, 4]), Kind::Other);
        assert_eq!(kind(&[0xc3]), Kind::Return);
        assert_eq!(kind(&[0xf3, 0xc3]), Kind::Return);
        assert_eq!(kind(&[0xf3]), Kind::Other);
    }

    #[test]
    fn marks_are_recognised() {
        let bytes = |displacement: u32| [&mark::OPCODE[..], &displacement.to_le_bytes()].concat();
        assert_eq!(kind(&bytes(mark::BEGIN)), Kind::Begin);
        assert_eq!(kind(&bytes(mark::END)), Kind::End);
        assert_eq!(kind(&bytes(0)), Kind::Other);
        assert_eq!(kind(&mark::OPCODE), Kind::Other);
    }
}
