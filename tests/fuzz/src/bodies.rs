//! Bodies and headers: the result does not depend on how they are split.

use ringpost::wire::mail::header;
use ringpost::wire::mail::header::HeaderScan;
use ringpost::wire::smtp::dot::DotDecoder;
use ringpost::wire::smtp::line::LineEnding;
use ringpost::wire::smtp::line::LineFault;
use ringpost::wire::smtp::stuff::Stuffer;

use super::Pieces;

/// The first two bytes choose the line ending rule and the cuts; the rest is the input after 354.
pub fn dot(data: &[u8]) {
    let [law, cuts, body @ ..] = data else { return };
    let ending = if law % 2 == 0 { LineEnding::Strict } else { LineEnding::Normalise };
    let whole = decode(body, 0, ending);
    assert_eq!(decode(body, *cuts, ending), whole, "cut and whole");
    let Ok((kept, consumed, end)) = whole else {
        let is_nul = whole == Err(LineFault::Nul);
        assert!(ending == LineEnding::Strict || is_nul, "normalising refuses only NUL");
        return;
    };
    assert!(!end || body[..consumed].ends_with(b".\r\n"), "only the dot line ends a body");
    assert!(end || consumed == body.len(), "all input before the end is consumed");
    if end {
        let mut stuffer = Stuffer::new();
        let mut stuffed: Vec<u8> = stuffer.segments(&kept).flatten().copied().collect();
        stuffed.extend_from_slice(stuffer.end());
        let again = decode(&stuffed, *cuts, LineEnding::Strict);
        let (kept_again, _, end_again) = again.expect("a decoded body obeys the CRLF rule");
        assert!(end_again && kept_again == kept, "a decoded body can be sent on");
    }
}

type Body = (Vec<u8>, usize, bool);

fn decode(body: &[u8], cuts: u8, ending: LineEnding) -> Result<Body, LineFault> {
    let mut decoder = DotDecoder::new();
    let mut kept = Vec::new();
    let mut consumed = 0;
    for piece in Pieces::new(body, cuts) {
        let mut fresh = piece.to_vec();
        let decoded = match ending {
            LineEnding::Strict => {
                let decoded = decoder.decode(&mut fresh)?;
                kept.extend_from_slice(&fresh[..decoded.kept]);
                assert_eq!(
                    fresh[decoded.consumed..],
                    piece[decoded.consumed..],
                    "the rest is unchanged"
                );
                decoded
            }
            LineEnding::Normalise => decoder.decode_normalising(piece, &mut kept)?,
        };
        consumed += decoded.consumed;
        if decoded.end {
            return Ok((kept, consumed, true));
        }
    }
    Ok((kept, consumed, false))
}

/// The first byte chooses the cuts; the rest is a message.
pub fn header(data: &[u8]) {
    let [cuts, message @ ..] = data else { return };
    let mut whole = HeaderScan::default();
    whole.feed(message);
    let mut cut = HeaderScan::default();
    Pieces::new(message, *cuts).for_each(|piece| cut.feed(piece));
    assert_eq!(findings(&cut), findings(&whole), "cut and whole");
    assert!(whole.header_bytes() <= message.len() as u64);
    if let Some(id) = whole.message_id() {
        assert!(
            id.len() <= header::MESSAGE_ID_BYTES_MAX && id.bytes().all(|b| b.is_ascii_graphic())
        );
    }
    let summary = header::summary(message);
    let texts = [summary.from, summary.to, summary.subject, summary.date, summary.message_id];
    for text in texts.iter().flatten() {
        assert!(text.len() <= header::SUMMARY_BYTES_MAX && !text.chars().any(char::is_control));
    }
}

fn findings(scan: &HeaderScan) -> (u32, u64, Option<&str>, [bool; 4]) {
    let has = [scan.has_date(), scan.has_from(), scan.has_message_id(), scan.ended()];
    (scan.received_count(), scan.header_bytes(), scan.message_id(), has)
}
