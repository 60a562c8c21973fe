//! Sends a body: by DATA with dots, or by BDAT.
//!
//! Promise:  the end of a body leaves only after the whole body was read and found to be lawful, so
//!           that no server accepts a part of it.
//! Writes:   a short body leaves in one write with its BDAT and its end. A long one leaves in vectored
//!           writes of its own bytes, with dots between them; under TLS the pieces are gathered,
//!           because encryption copies them anyway.
//! Memory:   `GATHER_BYTES_MAX` and one piece.

use crate::net::transfer::body::BodySource;
use crate::net::transfer::body::BodyUnreadable;
use crate::net::transfer::connection::Transfer;
use crate::net::transfer::peer::Peer;
use crate::net::transfer::watch::Watch;
use crate::wire::smtp::client_step::BodyForm;
use crate::wire::smtp::client_step::Fault;
use crate::wire::smtp::client_step::Stage;
use crate::wire::smtp::line::LineFault;
use crate::wire::smtp::line_law::LineLaw;
use crate::wire::smtp::stuff::Stuffer;

/// Bytes that are gathered before a write.
const GATHER_BYTES_MAX: usize = 64 << 10;
/// Parts of one vectored write. A piece with more lines that start with a dot is gathered.
const PARTS_MAX: usize = 64;

/// Why a body was not sent to its end.
enum Unsent<F> {
    Transport(F),
    Source,
    /// The time of the mail is over.
    TooLate,
    /// The body breaks the line law, and the peer takes DATA only.
    Unlawful(LineFault),
}

impl<S: Peer, W: Watch> Transfer<S, W> {
    pub(super) async fn send_body<B: BodySource>(
        &mut self,
        form: BodyForm,
        bytes: u64,
        body: &mut B,
    ) {
        match self.write_body(form, bytes, body).await {
            Ok(()) => self.client.on_body_sent(),
            Err(Unsent::Source) => {
                self.out.clear();
                self.deaf = true;
                self.client.fail(Fault::BodyBroken);
            }
            Err(Unsent::TooLate) => {
                self.out.clear();
                self.deaf = true;
                self.client.fail(Fault::TooSlow);
            }
            Err(Unsent::Unlawful(fault)) => {
                self.out.clear();
                self.deaf = true;
                self.client.refuse_body(fault);
            }
            Err(Unsent::Transport(fault)) => {
                self.out.clear();
                self.client.on_body_broken();
                self.on_write_fault(fault, Stage::End);
            }
        }
    }

    async fn write_body<B: BodySource>(
        &mut self,
        form: BodyForm,
        bytes: u64,
        body: &mut B,
    ) -> Result<(), Unsent<S::Fault>> {
        let mut stuffer = Stuffer::new();
        let mut lines = LineLaw::default();
        let mut left = bytes;
        while left > 0 {
            let piece = body.next().await.ok_or(Unsent::Source)?;
            let piece = piece.map_err(|BodyUnreadable| Unsent::Source)?;
            let piece = piece.as_ref();
            left = left.checked_sub(piece.len() as u64).ok_or(Unsent::Source)?;
            if form == BodyForm::Dot {
                // Checked here too, because the store may hold mail of older versions. With CHUNKING
                // the check is not needed.
                lines.judge(piece).map_err(Unsent::Unlawful)?;
            }
            if left == 0 {
                // The end leaves with the last piece, so the whole body must be good by now.
                no_more(body).await?;
                lines.judge_end().map_err(Unsent::Unlawful)?;
            }
            if self.is_too_late() {
                return Err(Unsent::TooLate);
            }
            let written = match form {
                BodyForm::Dot => {
                    let segments = stuffer.segments(piece);
                    let end = if left == 0 { stuffer.end() } else { b"" };
                    self.write_piece(piece.len(), segments, end).await
                }
                BodyForm::Chunk => {
                    self.write_piece(piece.len(), Some(piece).into_iter(), b"").await
                }
            };
            written.map_err(Unsent::Transport)?;
        }
        if bytes == 0 {
            no_more(body).await?;
            if self.is_too_late() {
                return Err(Unsent::TooLate);
            }
            if form == BodyForm::Dot {
                self.out.extend_from_slice(stuffer.end());
            }
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.write(self.block_limit()).await.map_err(Unsent::Transport)
    }

    /// Gathers the piece and the end, or writes them with the bytes gathered before.
    async fn write_piece<'p>(
        &mut self,
        bytes: usize,
        segments: impl Iterator<Item = &'p [u8]> + Clone,
        end: &'static [u8],
    ) -> Result<(), S::Fault> {
        let fits = self.out.len() + bytes <= GATHER_BYTES_MAX;
        let is_vectored =
            !fits && !self.channel.is_tls() && segments.clone().nth(PARTS_MAX - 1).is_none();
        if !is_vectored {
            segments.for_each(|segment| self.out.extend_from_slice(segment));
            self.out.extend_from_slice(end);
            if self.out.len() > GATHER_BYTES_MAX {
                self.write(self.block_limit()).await?;
            }
            return Ok(());
        }
        let limit = self.block_limit();
        let gathered = std::mem::take(&mut self.out);
        let mut parts: Vec<&[u8]> = Vec::with_capacity(PARTS_MAX);
        if !gathered.is_empty() {
            parts.push(&gathered);
        }
        // Not `extend`, which would make the gathered bytes live as long as the piece.
        for segment in segments {
            parts.push(segment);
        }
        if !end.is_empty() {
            parts.push(end);
        }
        let stream = self.channel.stream_mut();
        stream.set_deadline_in(limit);
        self.watch.on_write();
        stream.write_parts(&parts).await
    }
}

/// A source with more bytes than the mail is not trusted at all.
async fn no_more<B: BodySource, F>(body: &mut B) -> Result<(), Unsent<F>> {
    while let Some(piece) = body.next().await {
        let is_empty = piece.is_ok_and(|piece| piece.as_ref().is_empty());
        is_empty.then_some(()).ok_or(Unsent::Source)?;
    }
    Ok(())
}
