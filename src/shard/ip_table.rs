//! stub
use std::net::IpAddr;
#[derive(Debug)]
/// x
pub struct IpTable;
/// x
pub struct RetryAfter {
    /// x
    pub seconds: u32,
}
impl IpTable {
    /// x
    pub fn new(_: u32, _: u64, _: usize) -> Self {
        IpTable
    }
    /// x
    pub fn admit(&mut self, _: IpAddr, _: u64) -> Result<(), RetryAfter> {
        Ok(())
    }
}
