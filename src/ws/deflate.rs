//! permessage-deflate (RFC 7692).

use serde::{Deserialize, Serialize};

/// What was negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeflateParams {
    /// The server resets its compressor between messages.
    pub server_no_context_takeover: bool,
    /// The client resets its compressor between messages.
    pub client_no_context_takeover: bool,
    /// Base-2 logarithm of the server's LZ77 window.
    pub server_max_window_bits: u8,
    /// Base-2 logarithm of the client's LZ77 window.
    pub client_max_window_bits: u8,
}
