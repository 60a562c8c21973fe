//! The decoder compared with a simple one that reads line by line, at every split.

use super::*;
use crate::wire::smtp::line::LineEnding;
use crate::wire::smtp::stuff::Stuffer;

fn stuffed(body: &[u8]) -> Vec<u8> {
    let mut stuffer = Stuffer::new();
    let mut out: Vec<u8> = stuffer.segments(body).flatten().copied().collect();
    out.extend_from_slice(stuffer.end());
    out
}

/// Body, bytes consumed, whether the end was found.
type Outcome = Result<(Vec<u8>, usize, bool), LineFault>;

/// Decodes `input` cut before each position whose bit is set in `cuts` (bit 0: before byte 1).
fn decode_cut(input: &[u8], cuts: u64, ending: LineEnding) -> Outcome {
    let mut decoder = DotDecoder::new();
    let mut body = Vec::new();
    let mut start = 0;
    for at in 1..=input.len() {
        if at < input.len() && cuts >> (at - 1) & 1 == 0 {
            continue;
        }
        let mut piece = input[start..at].to_vec();
        let decoded = match ending {
            LineEnding::Strict => {
                let decoded = decoder.decode(&mut piece)?;
                body.extend_from_slice(&piece[..decoded.kept]);
                decoded
            }
            LineEnding::Normalise => decoder.decode_normalising(&piece, &mut body)?,
        };
        if decoded.end {
            return Ok((body, start + decoded.consumed, true));
        }
        assert_eq!(decoded.consumed, piece.len(), "all input before the end is consumed");
        start = at;
    }
    Ok((body, input.len(), false))
}

/// The strict rule, applied line by line to the whole input.
fn strictly_by_lines(input: &[u8]) -> Outcome {
    let mut body = Vec::new();
    let mut at = 0;
    while at < input.len() {
        let rest = &input[at..];
        let stop = rest.iter().position(|b| matches!(b, b'\r' | b'\n' | b'\0'));
        let line = match stop.map(|stop| (rest[stop], rest.get(stop + 1), stop)) {
            Some((b'\n', ..)) => return Err(LineFault::BareLf),
            Some((b'\0', ..)) => return Err(LineFault::Nul),
            Some((_, Some(b'\n'), stop)) => &rest[..stop + 2],
            Some((_, Some(_), _)) => return Err(LineFault::BareCr),
            Some((_, None, _)) | None => rest,
        };
        at += line.len();
        match line {
            b".\r\n" => return Ok((body, at, true)),
            b".\r" => {}
            _ => body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line)),
        }
    }
    Ok((body, at, false))
}

/// The normalising rule: CR and LF each end a line, but never the body.
fn leniently_by_lines(input: &[u8]) -> Outcome {
    let mut body = Vec::new();
    let mut at = 0;
    let mut after_crlf = true;
    while at < input.len() {
        let rest = &input[at..];
        let is_stop = |b: &u8| matches!(b, b'\r' | b'\n' | b'\0');
        let stop = rest.iter().position(is_stop).unwrap_or(rest.len());
        let line = &rest[..stop];
        let end: &[u8] = match &rest[stop..] {
            [b'\0', ..] => return Err(LineFault::Nul),
            [b'\r', b'\n', ..] => b"\r\n",
            [b'\n', ..] => b"\n",
            [b'\r', _, ..] => b"\r",
            // The end of the input, or a CR at the end.
            rest => {
                at += stop + rest.len();
                body.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                break;
            }
        };
        at += stop + end.len();
        let is_crlf = end == b"\r\n";
        if line == b"." && after_crlf && is_crlf {
            return Ok((body, at, true));
        }
        let text = if line == b"." { line } else { line.strip_prefix(b".").unwrap_or(line) };
        body.extend_from_slice(text);
        body.extend_from_slice(b"\r\n");
        after_crlf = is_crlf;
    }
    Ok((body, at, false))
}

fn check_both_rules(input: &[u8], cuts: u64) {
    let strict = decode_cut(input, cuts, LineEnding::Strict);
    assert_eq!(strict, strictly_by_lines(input), "{input:?} cut by {cuts:b}");
    let lenient = decode_cut(input, cuts, LineEnding::Normalise);
    assert_eq!(lenient, leniently_by_lines(input), "{input:?} cut by {cuts:b}, normalised");
    let Ok((body, ..)) = lenient else {
        return assert_eq!(lenient, Err(LineFault::Nul), "nothing else is refused");
    };
    let bare = DotDecoder::new().decode(&mut stuffed(&body));
    assert!(bare.is_ok_and(|decoded| decoded.end), "{input:?} normalised is valid: {body:?}");
}

/// Every body of up to six of these bytes, at every split.
#[test]
fn every_short_body_is_decoded_alike_at_every_split() {
    const BYTES: &[u8; 5] = b".\r\na\0";
    for len in 0..=6_u32 {
        for number in 0..BYTES.len().pow(len) {
            let digit = |place| BYTES[number / BYTES.len().pow(place) % BYTES.len()];
            let input: Vec<u8> = (0..len).map(digit).collect();
            for cuts in 0..1 << len.saturating_sub(1) {
                check_both_rules(&input, cuts);
            }
        }
    }
}

/// Longer bodies, made of the sequences used for smuggling.
#[test]
fn smuggling_sequences_are_decoded_alike_at_every_split() {
    const PIECES: [&[u8]; 12] = [
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r\n..\r\n",
        b"\r\n\0.\r\n",
        b"text",
        b"\r\n",
        b".",
        b"MAIL FROM:<a@b>\r\n",
    ];
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let pieces = 1 + random() % 5;
        let input: Vec<u8> = (0..pieces)
            .flat_map(|_| PIECES[(random() % PIECES.len() as u64) as usize])
            .copied()
            .collect();
        for cuts in [0, u64::MAX, random(), random(), 1 << (random() % 64)] {
            check_both_rules(&input, cuts);
        }
    }
}

#[test]
fn smuggled_ends_are_refused_or_become_text() {
    let end = |body: &[u8]| Ok((body.to_vec(), true));
    type Row<'a> = (&'a str, &'a [u8], Result<(Vec<u8>, bool), LineFault>, (&'a [u8], bool));
    let rows: &[Row<'_>] = &[
        ("the end", b"a\r\n.\r\n", end(b"a\r\n"), (b"a\r\n", true)),
        ("an empty body", b".\r\n", end(b""), (b"", true)),
        ("LF.LF", b"a\n.\nX\r\n.\r\n", Err(LineFault::BareLf), (b"a\r\n.\r\nX\r\n", true)),
        ("CRLF.LF", b"a\r\n.\nX\r\n.\r\n", Err(LineFault::BareLf), (b"a\r\n.\r\nX\r\n", true)),
        ("LF.CRLF", b"a\n.\r\nX\r\n.\r\n", Err(LineFault::BareLf), (b"a\r\n.\r\nX\r\n", true)),
        ("CR.CR", b"a\r.\rX\r\n.\r\n", Err(LineFault::BareCr), (b"a\r\n.\r\nX\r\n", true)),
        ("CRLF.CR", b"a\r\n.\rX\r\n.\r\n", Err(LineFault::BareCr), (b"a\r\n.\r\nX\r\n", true)),
        ("CR CR LF", b"a\r\r\n.\r\n", Err(LineFault::BareCr), (b"a\r\n\r\n", true)),
        ("a stuffed end", b"..\r\n.\r\n", end(b".\r\n"), (b".\r\n", true)),
        ("a stuffed line", b"..a\r\n...\r\n.\r\n", end(b".a\r\n..\r\n"), (b".a\r\n..\r\n", true)),
        ("a dot never stuffed", b".a\r\n.\r\n", end(b"a\r\n"), (b"a\r\n", true)),
    ];
    for (name, input, strict, (normalised, ended)) in rows {
        let found = decode_cut(input, 0, LineEnding::Strict).map(|(body, _, end)| (body, end));
        assert_eq!(&found, strict, "{name}");
        let found = decode_cut(input, 0, LineEnding::Normalise);
        let found = found.map(|(body, _, end)| (body, end));
        assert_eq!(found, Ok((normalised.to_vec(), *ended)), "{name}, normalised");
    }
}

#[test]
fn nul_is_refused_by_both_decoders() {
    for input in [&b"a\0b\r\n"[..], b"\0", b"a\r\n\0.\r\n", b"\r\n.\0\r\n"] {
        for ending in [LineEnding::Strict, LineEnding::Normalise] {
            let found = decode_cut(input, 0, ending);
            assert_eq!(found, Err(LineFault::Nul), "{input:?}, {ending:?}");
        }
    }
}

#[test]
fn input_after_the_end_is_not_consumed() {
    let mut input = *b"..a\r\n.\r\nMAIL FROM:<>\r\n.\r\n";
    let mut decoder = DotDecoder::new();
    let decoded = decoder.decode(&mut input).expect("a valid body");
    assert_eq!(decoded, Decoded { kept: 4, consumed: 8, end: true });
    assert_eq!(&input[..4], b".a\r\n");
    assert_eq!(&input[8..], b"MAIL FROM:<>\r\n.\r\n");
    let again = decoder.decode(&mut input).expect("further calls find the end again");
    assert_eq!(again, Decoded { kept: 0, consumed: 0, end: true });
}

#[test]
fn a_fault_lasts() {
    let mut decoder = DotDecoder::new();
    assert_eq!(decoder.decode(&mut b"a\nb".to_owned()), Err(LineFault::BareLf));
    assert_eq!(decoder.decode(&mut b"c\r\n.\r\n".to_owned()), Err(LineFault::BareLf));
}

#[test]
fn decoding_reverses_stuffing() {
    for body in ["", "\r\n", ".\r\n", "..\r\n.a\r\n\r\n", "a.b\r\n.", "a\r\n.\r\n"] {
        let mut stuffed = stuffed(body.as_bytes());
        let whole = if body.is_empty() || body.ends_with("\r\n") { "" } else { "\r\n" };
        let decoded = DotDecoder::new().decode(&mut stuffed);
        let decoded = decoded.expect("a stuffed body is valid");
        assert!(decoded.end && decoded.consumed == stuffed.len(), "{body:?}");
        assert_eq!(&stuffed[..decoded.kept], [body, whole].concat().as_bytes(), "{body:?}");
    }
}
