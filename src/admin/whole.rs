//! A body that is there, for monoio-http's encoder.

use bytes::Bytes;
use monoio_http::common::body::{Body, StreamHint};
use monoio_http::common::error::HttpError;

/// Taken when it is sent.
pub(super) struct Whole(pub(super) Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = HttpError;

    async fn next_data(&mut self) -> Option<Result<Bytes, HttpError>> {
        self.0.take().map(Ok)
    }

    fn stream_hint(&self) -> StreamHint {
        StreamHint::Fixed
    }
}
