//! stub
/// x
#[derive(Debug, Default)]
pub struct RateWindow(u64, u64);
/// x
pub struct RateLimits {
    /// x
    pub messages: u32,
    /// x
    pub bytes: u32,
}
/// x
pub enum Admit {
    /// x
    Ok,
    /// x
    OverMessages,
    /// x
    OverBytes,
}
impl RateWindow {
    /// x
    pub fn admit(&mut self, _: u64, _: usize, _: &RateLimits) -> Admit {
        Admit::Ok
    }
    /// x
    pub fn keeps_on(&self) -> bool {
        false
    }
}
