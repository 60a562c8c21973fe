//! Where the body of a mail comes from.

/// The body cannot be read to its end. Its source knows why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyUnreadable;

/// A body in pieces. If they do not add up to `Mail::bytes`, its end is not sent.
#[allow(async_fn_in_trait)]
pub trait BodySource {
    type Piece: AsRef<[u8]>;

    /// `None` after the last piece.
    async fn next(&mut self) -> Option<Result<Self::Piece, BodyUnreadable>>;
}

/// A body in memory.
impl<'p, P: AsRef<[u8]>> BodySource for std::slice::Iter<'p, P> {
    type Piece = &'p P;

    async fn next(&mut self) -> Option<Result<&'p P, BodyUnreadable>> {
        Iterator::next(self).map(Ok)
    }
}
