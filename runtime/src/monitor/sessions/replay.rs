//! A session's output between its source and its client: what was not sent yet, and what was sent but may be asked for
//! again. Bounded by [`Replay::is_full`]; empty it takes no memory. Counts bytes from the session's beginning.

use std::collections::VecDeque;

use crate::monitor::protocol::{Bytes, Kind, encode};

/// Bytes kept before the source has to wait, or is missed.
const LIMIT: usize = 256 * 1024;
/// Neighbouring output is joined up to this many bytes.
const PIECE: usize = 16 * 1024;
/// What a piece costs beside its bytes: many short ones must not be more than a few long ones.
const PIECE_COST: usize = 64;

/// Output in order.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pieces: VecDeque<Piece>,
    /// Offset behind the last byte.
    end: u64,
    /// Offset of the next byte to send.
    sent: u64,
    cost: usize,
}

#[derive(Debug)]
struct Piece {
    kind: Kind,
    from: u64,
    length: u64,
    /// Empty for [`Kind::Missed`].
    bytes: Vec<u8>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.from + self.length
    }

    fn cost(&self) -> usize {
        PIECE_COST + self.bytes.len()
    }
}

impl Replay {
    /// Appends what was read of a stream.
    pub(super) fn push(&mut self, kind: Kind, bytes: &[u8]) {
        let length = bytes.len() as u64;
        match self.pieces.back_mut() {
            Some(last) if last.kind == kind && last.bytes.len() + bytes.len() <= PIECE => {
                last.bytes.extend(bytes);
                last.length += length;
                self.cost += bytes.len();
            }
            _ => self.append(Piece { kind, from: self.end, length, bytes: bytes.to_vec() }),
        }
        self.end += length;
    }

    /// Notes that as many bytes passed by which are not kept.
    pub(super) fn miss(&mut self, bytes: usize) {
        let length = bytes as u64;
        match self.pieces.back_mut() {
            Some(last) if last.kind == Kind::Missed => last.length += length,
            _ => self.append(Piece { kind: Kind::Missed, from: self.end, length, bytes: Vec::new() }),
        }
        self.end += length;
    }

    fn append(&mut self, piece: Piece) {
        self.cost += piece.cost();
        self.pieces.push_back(piece);
    }

    /// Whether nothing more should be pushed.
    pub(super) fn is_full(&self) -> bool {
        self.cost >= LIMIT
    }

    /// Whether all was sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.end
    }

    /// Offset of the next byte to send.
    pub(super) fn position(&self) -> u64 {
        self.sent
    }

    /// Forgets what was sent and will not be asked for again: whole pieces.
    pub(super) fn acknowledge(&mut self, offset: u64) {
        while let Some(first) = self.pieces.front().filter(|first| first.end() <= offset.min(self.sent)) {
            self.cost -= first.cost();
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }

    /// Sends again from `offset` on; false where that is not kept, or not there yet.
    pub(super) fn rewind(&mut self, offset: u64) -> bool {
        let begin = self.pieces.front().map_or(self.end, |first| first.from);
        let is_kept = (begin..=self.end).contains(&offset);
        if is_kept {
            self.sent = offset;
        }
        is_kept
    }

    /// The next frame to send; None when all was sent.
    pub(super) fn frame(&mut self) -> Option<Vec<u8>> {
        let index = self.pieces.partition_point(|piece| piece.end() <= self.sent);
        let piece = self.pieces.get(index)?;
        let (skip, end) = (self.sent - piece.from, piece.end());
        let frame = if piece.kind == Kind::Missed {
            let bytes = Bytes { bytes: piece.length - skip };
            encode(Kind::Missed, &serde_json::to_vec(&bytes).unwrap_or_default())
        } else {
            encode(piece.kind, &piece.bytes[usize::try_from(skip).unwrap_or(usize::MAX)..])
        };
        self.sent = end;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::protocol::decode;

    fn sent(replay: &mut Replay) -> Vec<(Kind, Vec<u8>)> {
        let mut bytes: Vec<u8> = std::iter::from_fn(|| replay.frame()).flatten().collect();
        std::iter::from_fn(|| decode(&mut bytes).unwrap()).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_from_any_byte() {
        let mut replay = Replay::default();
        replay.push(Kind::Stdout, b"one");
        replay.push(Kind::Stdout, b"two");
        replay.push(Kind::Stderr, b"three");
        let all = vec![(Kind::Stdout, b"onetwo".to_vec()), (Kind::Stderr, b"three".to_vec())];
        assert_eq!(sent(&mut replay), all);
        assert!(replay.is_sent());
        assert!(replay.rewind(0));
        assert_eq!(sent(&mut replay), all);
        assert!(replay.rewind(4));
        assert_eq!(sent(&mut replay), [(Kind::Stdout, b"wo".to_vec()), (Kind::Stderr, b"three".to_vec())]);
        replay.acknowledge(7);
        assert!(!replay.rewind(3) && !replay.rewind(12) && replay.rewind(6) && replay.rewind(11));
        replay.acknowledge(11);
        assert!(replay.pieces.is_empty() && replay.cost == 0 && replay.rewind(11));
    }

    #[test]
    fn what_grows_while_it_is_sent_is_sent_once() {
        let mut replay = Replay::default();
        replay.push(Kind::Stdout, b"a");
        assert_eq!(sent(&mut replay), [(Kind::Stdout, b"a".to_vec())]);
        replay.push(Kind::Stdout, b"b");
        assert_eq!((replay.position(), replay.is_sent()), (1, false));
        assert_eq!(sent(&mut replay), [(Kind::Stdout, b"b".to_vec())]);
        replay.acknowledge(99);
        assert_eq!(replay.cost, 0, "no more than what was sent can be acknowledged, and that is all of it");
    }

    #[test]
    fn bytes_that_were_missed_count() {
        let mut replay = Replay::default();
        replay.push(Kind::Stdout, b"a");
        replay.miss(10);
        replay.miss(5);
        replay.push(Kind::Stdout, b"b");
        let frames = sent(&mut replay);
        assert_eq!(frames[1], (Kind::Missed, br#"{"bytes":15}"#.to_vec()));
        assert_eq!(replay.position(), 17);
        assert!(replay.rewind(16));
        assert_eq!(sent(&mut replay), [(Kind::Stdout, b"b".to_vec())]);
    }

    #[test]
    fn short_pieces_are_bounded_like_long_ones() {
        let mut replay = Replay::default();
        let mut bytes = 0;
        while !replay.is_full() {
            replay.push(if bytes % 2 == 0 { Kind::Stdout } else { Kind::Stderr }, b"x");
            bytes += 1;
        }
        assert_eq!(replay.pieces.len(), LIMIT.div_ceil(PIECE_COST + 1));
        let mut replay = Replay::default();
        while !replay.is_full() {
            replay.push(Kind::Stdout, &[0; PIECE]);
        }
        assert!(replay.end <= (LIMIT + PIECE) as u64);
    }
}
