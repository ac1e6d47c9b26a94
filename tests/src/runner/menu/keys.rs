//! Keys, out of the bytes that a terminal sends for them; console_codes(4), ECMA-48 5.4.
//!
//! A letter is a byte, an arrow three: ESC [ A, or ESC O A if the terminal is in application mode.
//! ESC alone is a key as well, so only what follows tells which it was.

/// What the key Esc sends, and what all the long ones begin with.
const ESC: u8 = 0x1b;

/// A key that has been pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the first line.
    Home,
    /// To the last line.
    End,
    /// The end of a line.
    Enter,
    /// Away from here.
    Escape,
    /// Takes the last character back.
    Backspace,
    /// A character.
    Char(char),
}

/// The keys that these bytes stand for. Of others, such as F1 or a tabulator, nothing is left.
pub fn decode(mut bytes: &[u8]) -> Vec<Key> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        let (key, length) = first(bytes);
        keys.extend(key);
        bytes = &bytes[length..];
    }
    keys
}

/// Do the bytes end within a key? So they do after ESC, which may be one.
pub fn is_cut_off(bytes: &[u8]) -> bool {
    let Some(begin) = bytes.iter().rposition(|byte| *byte == ESC) else {
        return std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none());
    };
    match &bytes[begin..] {
        [_] | [_, b'O'] => true,
        [_, b'[', rest @ ..] => !rest.iter().copied().any(ends_sequence),
        _ => false,
    }
}

/// The first key, if it is one that we know, and its length in bytes.
fn first(bytes: &[u8]) -> (Option<Key>, usize) {
    match bytes {
        [ESC, b'[', rest @ ..] => {
            let length = rest
                .iter()
                .copied()
                .position(ends_sequence)
                .map(|at| at + 1);
            let sequence = &rest[..length.unwrap_or(rest.len())];
            (sequence_key(sequence), 2 + sequence.len())
        }
        [ESC, b'O', letter, ..] => (sequence_key(&[*letter]), 3),
        [ESC] | [ESC, ESC, ..] => (Some(Key::Escape), 1),
        // Alt and a key.
        [ESC, ..] => (None, 2),
        [b'\r' | b'\n', ..] => (Some(Key::Enter), 1),
        [0x08 | 0x7f, ..] => (Some(Key::Backspace), 1),
        // ^D, which ends what other programs read from a terminal.
        [0x04, ..] => (Some(Key::Escape), 1),
        [..0x20, ..] => (None, 1),
        _ => character(bytes),
    }
}

/// What stands between ESC [ and here: numbers, then a letter.
fn sequence_key(sequence: &[u8]) -> Option<Key> {
    let (last, parameters) = sequence.split_last()?;
    Some(match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'H', _) | (b'~', b"1" | b"7") => Key::Home,
        (b'F', _) | (b'~', b"4" | b"8") => Key::End,
        (b'~', b"5") => Key::PageUp,
        (b'~', b"6") => Key::PageDown,
        (b'M', b"") => Key::Enter,
        _ => return None,
    })
}

fn ends_sequence(byte: u8) -> bool {
    (0x40..=0x7e).contains(&byte)
}

/// A character of UTF-8; what is none is skipped.
fn character(bytes: &[u8]) -> (Option<Key>, usize) {
    let length = match bytes[0] {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    let character = bytes.get(..length);
    let character = character.and_then(|bytes| std::str::from_utf8(bytes).ok()?.chars().next());
    match character {
        Some(c) => (Some(Key::Char(c)), length),
        None => (None, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_what_terminals_send_for_them() {
        for (bytes, key) in [
            (&b"\x1b[A"[..], Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[1;5A", Key::Up),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[H", Key::Home),
            (b"\x1b[1~", Key::Home),
            (b"\x1bOF", Key::End),
            (b"\x1b[4~", Key::End),
            (b"\n", Key::Enter),
            (b"\r", Key::Enter),
            (b"\x1bOM", Key::Enter),
            (b"\x7f", Key::Backspace),
            (b"\x1b", Key::Escape),
            (b"j", Key::Char('j')),
            ("\u{e9}".as_bytes(), Key::Char('\u{e9}')),
        ] {
            assert_eq!(decode(bytes), [key], "{bytes:?}");
            assert!(!is_cut_off(bytes) || bytes == b"\x1b", "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_key_of_ours_leaves_nothing_behind() {
        let noise = b"\t\x1b[15~\x1bx\x1b[200~\x00\xff\x1b[>0;276;0cj";
        assert_eq!(decode(noise), [Key::Char('j')]);
        assert_eq!(
            decode(b"12\n"),
            [Key::Char('1'), Key::Char('2'), Key::Enter]
        );
        assert_eq!(decode(b"\x1b\x1b[A"), [Key::Escape, Key::Up]);
    }

    #[test]
    fn half_a_key_is_known_as_such() {
        for half in [&b"\x1b"[..], b"j\x1b[", b"\x1bO", b"\x1b[1;5", b"\xc3"] {
            assert!(is_cut_off(half), "{half:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_is_taken_once(bytes: Vec<u8>) {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (_, length) = first(rest);
                prop_assert!((1..=rest.len()).contains(&length));
                rest = &rest[length..];
            }
        }
    }
}
