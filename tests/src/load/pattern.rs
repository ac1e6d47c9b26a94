//! What is sent: bytes that tell by their position, so that a byte that is wrong, lost, repeated or
//! somebody else's is seen at once.
//!
//! One table of random bytes is shared by all connections; each begins at a place of its own and goes
//! round. The period is a prime, so that no message or buffer size fits into it. Whatever is to be
//! sent or compared is one slice of the table: nothing is made up or copied per message.

/// The bytes after which a stream repeats itself; small enough for a second-level cache.
const PERIOD: u64 = 65_521;

/// The most that is sent or compared in one piece.
pub const PIECE: usize = 256 * 1024;

/// How far apart neighbouring connections begin.
const STRIDE: u64 = 40_503;

/// Where echoes that are in the wrong place are looked for, before and behind it.
const NEAR: u64 = 8192;

/// So many bytes in a row are no coincidence.
const TELLING: usize = 8;

/// The table.
#[derive(Debug)]
pub struct Pattern(Vec<u8>);

/// What one connection sends: the table from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin(u64);

/// The first byte that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its position in the stream, from 0.
    pub at: u64,
    /// What should be there.
    pub expected: u8,
    /// What is there.
    pub found: u8,
    /// If what is there belongs so many bytes further on (bytes are missing) or back (they came twice).
    pub shift: Option<i64>,
}

impl Origin {
    /// Of this connection.
    pub fn of(connection: u64) -> Self {
        Self(connection.wrapping_mul(STRIDE) % PERIOD)
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self::new()
    }
}

impl Pattern {
    /// The table, always the same.
    pub fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD).map(|_| random(&mut state)).collect();
        while bytes.len() < PERIOD as usize + PIECE {
            let again = (bytes.len() - PERIOD as usize)..bytes.len();
            let missing = PERIOD as usize + PIECE - bytes.len();
            bytes.extend_from_within(again.start..again.end.min(again.start + missing));
        }
        Self(bytes)
    }

    /// A stream's bytes from `position` on: so many, but no more than [`PIECE`].
    pub fn slice(&self, origin: Origin, position: u64, length: u64) -> &[u8] {
        let start = ((origin.0 + position) % PERIOD) as usize;
        &self.0[start..start + length.min(PIECE as u64) as usize]
    }

    /// Are these the stream's bytes from `position` on? If not, which is the first that is not?
    pub fn compare(&self, origin: Origin, position: u64, found: &[u8]) -> Result<(), Difference> {
        let mut at = position;
        for piece in found.chunks(PIECE) {
            if piece != self.slice(origin, at, piece.len() as u64) {
                return Err(self.difference(origin, at, piece));
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    #[cold]
    fn difference(&self, origin: Origin, position: u64, found: &[u8]) -> Difference {
        let expected = self.slice(origin, position, found.len() as u64);
        let same = |(a, b): &(&u8, &u8)| a == b;
        let index = found.iter().zip(expected).take_while(same).count();
        let at = position + index as u64;
        Difference {
            at,
            expected: expected[index],
            found: found[index],
            shift: self.shift(origin, at, &found[index..]),
        }
    }

    /// Where in the neighbourhood of `position` these bytes belong; None if nowhere.
    fn shift(&self, origin: Origin, position: u64, found: &[u8]) -> Option<i64> {
        let piece = &found[..found.len().min(TELLING)];
        let belongs = |at: u64| piece == self.slice(origin, at, piece.len() as u64);
        let near = 1..=NEAR as i64;
        let mut shifts = near.flat_map(|far| [far, -far]);
        let told = |shift: &i64| position.checked_add_signed(*shift).is_some_and(belongs);
        (piece.len() == TELLING).then(|| shifts.find(told))?
    }
}

/// One byte of xorshift64*.
fn random(state: &mut u64) -> u8 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(pattern: &Pattern, origin: Origin, from: u64, length: usize) -> Vec<u8> {
        let byte = |at| pattern.slice(origin, at, 1)[0];
        (from..from + length as u64).map(byte).collect()
    }

    proptest! {
        #[test]
        fn a_slice_is_the_stream(connection in 0..10_000_u64, from in 0..1_000_000_u64, length in 0..300_usize) {
            let (pattern, origin) = (Pattern::new(), Origin::of(connection));
            let bytes = stream(&pattern, origin, from, length);
            prop_assert_eq!(pattern.slice(origin, from, length as u64), &bytes[..]);
            prop_assert_eq!(pattern.compare(origin, from, &bytes), Ok(()));
        }

        #[test]
        fn a_wrong_byte_is_found_where_it_is(from in 0..1_000_000_u64, length in 1..300_usize, wrong in 0..300_usize, by in 1..=255_u8) {
            let (pattern, origin) = (Pattern::new(), Origin::of(3));
            let mut bytes = stream(&pattern, origin, from, length);
            let wrong = wrong % length;
            let expected = bytes[wrong];
            bytes[wrong] = expected.wrapping_add(by);
            let difference = pattern.compare(origin, from, &bytes).expect_err("one is wrong");
            prop_assert_eq!(difference.at, from + wrong as u64);
            prop_assert_eq!((difference.expected, difference.found), (expected, bytes[wrong]));
            prop_assert_eq!(difference.shift, None);
        }

        #[test]
        fn lost_and_repeated_bytes_are_told(from in 10_000..1_000_000_u64, shift in -5000..5000_i64) {
            prop_assume!(shift != 0);
            let (pattern, origin) = (Pattern::new(), Origin::of(3));
            let bytes = stream(&pattern, origin, from.wrapping_add_signed(shift), 64);
            let difference = pattern.compare(origin, from, &bytes).expect_err("shifted");
            // Bytes that happen to be right come before it.
            prop_assert_eq!(difference.shift, Some(shift));
        }

        #[test]
        fn connections_do_not_look_alike(one in 0..10_000_u64, far in 1..10_000_u64, from in 0..100_000_u64) {
            let pattern = Pattern::new();
            let other = stream(&pattern, Origin::of(one + far), from, 16);
            prop_assert!(pattern.compare(Origin::of(one), from, &other).is_err());
        }
    }

    #[test]
    fn the_longest_piece_fits_everywhere() {
        let (pattern, origin) = (Pattern::new(), Origin::of(1));
        for from in [0, PERIOD - 1, PERIOD, 7 * PERIOD + 11] {
            let bytes = stream(&pattern, origin, from, PIECE + 3);
            assert_eq!(pattern.slice(origin, from, u64::MAX), &bytes[..PIECE]);
            assert_eq!(pattern.compare(origin, from, &bytes), Ok(()));
        }
    }
}
