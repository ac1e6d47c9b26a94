//! Packets in a file for Wireshark and tcpdump: pcap with nanoseconds, draft-ietf-opsawg-pcap.
//!
//! The classic format and not pcapng: 24 bytes, then 16 in front of each packet, and every tool reads
//! it. What a [`Recording`] has of a packet is what the ring has: its headers and what fits into 128
//! bytes with them. Each packet is written when it has been seen, so that whoever is killed leaves a
//! file that can be read.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::observe::packets::{Capture, SNAP};

/// Times have nanoseconds; as the writer's machine writes numbers.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: (u16, u16) = (2, 4);
/// Frames begin with an Ethernet header, on lo as well.
const ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const NS: u64 = 1_000_000_000;

/// A packet of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub at: u64,
    /// How many bytes it had.
    pub length: u32,
    /// The first of them.
    pub bytes: Vec<u8>,
}

/// Writes a file, packet by packet.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// A file without packets.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend(MAGIC.to_le_bytes());
        header.extend(VERSION.0.to_le_bytes());
        header.extend(VERSION.1.to_le_bytes());
        // Times are UTC, of an accuracy that nobody states.
        header.extend([0; 8]);
        header.extend(SNAP.to_le_bytes());
        header.extend(ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        out.flush()?;
        Ok(Self(out))
    }

    /// One more packet: when it passed (ns of `CLOCK_REALTIME`), how long it was, its first bytes.
    pub fn packet(&mut self, at: u64, length: u32, bytes: &[u8]) -> io::Result<()> {
        let numbers = [
            (at / NS) as u32,
            (at % NS) as u32,
            bytes.len() as u32,
            length,
        ];
        numbers
            .iter()
            .try_for_each(|number| self.0.write_all(&number.to_le_bytes()))?;
        self.0.write_all(bytes)
    }

    /// What has been written is in the file.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The packets of a file as a [`Writer`] writes it; one that is not there to its end, because the
/// writer was killed, is left out. Errors: it is no such file.
pub fn read(file: &[u8]) -> Result<Vec<Frame>> {
    ensure!(file.len() >= FILE_HEADER, "no header");
    ensure!(number(file, 0) == MAGIC, "not pcap with nanoseconds");
    ensure!(number(file, 20) == ETHERNET, "not from an Ethernet");
    let mut frames = Vec::new();
    let mut rest = &file[FILE_HEADER..];
    while rest.len() >= PACKET_HEADER {
        let end = PACKET_HEADER + number(rest, 8) as usize;
        let Some(bytes) = rest.get(PACKET_HEADER..end) else {
            break;
        };
        frames.push(Frame {
            at: u64::from(number(rest, 0)) * NS + u64::from(number(rest, 4)),
            length: number(rest, 12),
            bytes: bytes.to_vec(),
        });
        rest = &rest[end..];
    }
    Ok(frames)
}

/// One file of several: all their packets in the order of time.
pub fn merged(files: &[Vec<u8>]) -> Result<Vec<u8>> {
    let frames: Result<Vec<_>> = files.iter().map(|file| read(file)).collect();
    let mut frames = frames?.concat();
    frames.sort_by_key(|frame| frame.at);
    let mut all = Vec::new();
    let mut writer = Writer::new(&mut all)?;
    for Frame { at, length, bytes } in &frames {
        writer.packet(*at, *length, bytes)?;
    }
    Ok(all)
}

/// The four bytes from there on, which must be there.
fn number(bytes: &[u8], from: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[from..from + 4]);
    u32::from_le_bytes(four)
}

/// Where captures are copied to while there is a [`Recording`].
static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// The file that several captures share.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Mutex<Tape>>);

#[derive(Debug)]
struct Tape {
    file: Writer<BufWriter<File>>,
    packets: u64,
    dropped: u64,
    /// The first thing that went wrong; nothing is written after it.
    failed: Option<io::Error>,
}

impl Sink {
    /// That of the recording which is under way.
    pub(super) fn wanted() -> Option<Self> {
        SINK.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One more packet, as [`Writer::packet`].
    pub(super) fn packet(&self, at: u64, length: u32, bytes: &[u8]) {
        self.attempt(|tape| {
            tape.packets += 1;
            tape.file.packet(at, length, bytes)
        });
    }

    /// No more packets for now: they are to be in the file.
    pub(super) fn flush(&self) {
        self.attempt(|tape| tape.file.flush());
    }

    /// So many packets have not been seen.
    pub(super) fn dropped(&self, packets: u64) {
        self.tape().dropped += packets;
    }

    fn attempt(&self, write: impl FnOnce(&mut Tape) -> io::Result<()>) {
        let mut tape = self.tape();
        if tape.failed.is_none() {
            tape.failed = write(&mut tape).err();
        }
    }

    fn tape(&self) -> MutexGuard<'_, Tape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all packets on lo, and those that labs capture on other hosts, until it ends. One at a time.
#[derive(Debug)]
pub struct Recording {
    sink: Sink,
    lo: Capture,
}

/// What a recording has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Packets in the file.
    pub packets: u64,
    /// Packets that should be in it, but the kernel had no room for them.
    pub dropped: u64,
}

impl Recording {
    /// Begins to write to `file` (or pipe), and to capture. Errors: it cannot be written; EPERM without
    /// `CAP_NET_RAW`, which [`crate::netns`] gives.
    pub fn start(file: File) -> Result<Self> {
        let file = Writer::new(BufWriter::new(file)).context("write packets")?;
        let sink = Sink(Arc::new(Mutex::new(Tape {
            file,
            packets: 0,
            dropped: 0,
            failed: None,
        })));
        let lo = Capture::recorded(sink.clone())?;
        *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink.clone());
        Ok(Self { sink, lo })
    }

    /// Ends it. The error is the first one of writing.
    pub fn finish(self) -> io::Result<Recorded> {
        let Self { sink, lo } = self;
        *SINK.lock().unwrap_or_else(PoisonError::into_inner) = None;
        drop(lo);
        let mut tape = sink.tape();
        let Tape {
            packets, dropped, ..
        } = *tape;
        match tape.failed.take() {
            Some(error) => Err(error),
            None => Ok(Recorded { packets, dropped }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).expect("a Vec takes it");
        let at = 1_795_276_800_123_456_789;
        writer.packet(at, 1514, &[7; 66]).expect("a Vec takes it");
        writer.packet(at + 1, 3, b"abc").expect("a Vec takes it");
        let frames = read(&file).expect("whole");
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].at, frames[0].length), (at, 1514));
        assert_eq!(frames[0].bytes, [7; 66]);
        assert_eq!((frames[1].at, &frames[1].bytes[..]), (at + 1, &b"abc"[..]));
    }

    #[test]
    fn the_header_is_that_of_the_format() {
        let mut file = Vec::new();
        Writer::new(&mut file).expect("a Vec takes it");
        let header = "4d3cb2a1 02000400 00000000 00000000 80000000 01000000";
        let bytes: Vec<_> = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes.concat(), header.replace(' ', ""));
        assert_eq!(read(&file).expect("no packets"), []);
    }

    #[test]
    fn of_what_was_cut_off_the_whole_packets_are_read() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file).expect("a Vec takes it");
        writer.packet(1, 3, b"abc").expect("a Vec takes it");
        let first = FILE_HEADER + PACKET_HEADER + 3;
        for end in FILE_HEADER..=file.len() {
            let frames = read(&file[..end]).expect("a header");
            assert_eq!(frames.len(), usize::from(end >= first), "{end} bytes");
        }
        assert!(read(&file[..FILE_HEADER - 1]).is_err());
        file[0] = 0xd4;
        assert!(read(&file).is_err(), "microseconds");
    }

    #[test]
    fn several_files_become_one_in_the_order_of_time() {
        let file = |times: &[u64]| {
            let mut file = Vec::new();
            let mut writer = Writer::new(&mut file).expect("a Vec takes it");
            for at in times {
                writer.packet(*at, 1, b"x").expect("a Vec takes it");
            }
            file
        };
        let all = merged(&[file(&[1, 5]), file(&[]), file(&[2, 7])]).expect("three files");
        assert_eq!(all, file(&[1, 2, 5, 7]));
    }
}
