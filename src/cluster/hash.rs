//! A hash that is the same in every process, on every machine and in every version: what nodes must agree on is placed by it.
//!
//! FNV-1a over the bytes, then the finalizer of MurmurHash3, which spreads the result over all 64 bits. It is not keyed: whoever may choose
//! names may choose where they fall. Names of users come from tokens, and what one node is spared another one gets; the maps *inside* a
//! process, where a pile-up would cost time, use keyed hashes instead.

/// The hash of `bytes`; another `seed`, another hash.
pub fn stable(seed: u64, bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = bytes.iter().fold(OFFSET ^ mix(seed), |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    mix(hash)
}

/// A bijection of 64 bits in which every bit of the input moves every bit of the output: the finalizer of MurmurHash3.
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers are a contract between nodes of different versions: a change of them moves every user of a running cluster.
    #[test]
    fn the_hash_never_changes() {
        let cases: [(u64, &[u8], u64); 4] = [
            (0, b"", 0xefd0_1f60_ba99_2926),
            (0, b"alice", 0x3507_d047_a67c_08f4),
            (1, b"alice", 0x4854_5507_bc80_0be9),
            (7, "naïve-\u{1f600}".as_bytes(), 0x7544_4e43_357d_ef3f),
        ];
        for (seed, bytes, hash) in cases {
            assert_eq!(stable(seed, bytes), hash, "{seed} {bytes:?} {:#x}", stable(seed, bytes));
        }
    }
}
