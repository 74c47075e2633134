//! Masking of client payloads (RFC 6455, section 5.3).

/// Bytes handled per step: a multiple of every vector register's width, so that the compiler vectorises the loop.
const LANE: usize = 32;

/// Removes (or applies: it is the same) the mask `key` of a whole payload, in place.
#[inline]
pub fn unmask(data: &mut [u8], key: [u8; 4]) {
    let mut pattern = [0; LANE];
    let (words, _) = pattern.as_chunks_mut::<4>();
    words.fill(key);
    let (lanes, rest) = data.as_chunks_mut::<LANE>();
    for lane in lanes {
        for (byte, mask) in lane.iter_mut().zip(pattern) {
            *byte ^= mask;
        }
    }
    let (words, rest) = rest.as_chunks_mut::<4>();
    let key_word = u32::from_ne_bytes(key);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ key_word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(key) {
        *byte ^= mask;
    }
}

/// The same for a part of a payload that begins `offset` bytes into it.
#[inline]
pub fn unmask_at(data: &mut [u8], key: [u8; 4], offset: usize) {
    let mut rotated = key;
    rotated.rotate_left(offset % 4);
    unmask(data, rotated);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(data: &mut [u8], key: [u8; 4], offset: usize) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte ^= key[(i + offset) % 4];
        }
    }

    #[test]
    fn agrees_with_the_naive_version_at_every_alignment_and_length() {
        let key = [0x12, 0xf4, 0x00, 0x9b];
        let source: Vec<u8> = (0..400u32).map(|i| (i * 31 % 251) as u8).collect();
        for start in 0..33 {
            for len in 0..200 {
                let mut expect = source.clone();
                naive(&mut expect[start..start + len], key, 0);
                let mut actual = source.clone();
                unmask(&mut actual[start..start + len], key);
                assert_eq!(actual, expect, "start {start}, len {len}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_agree_with_the_whole(mut data: Vec<u8>, key: [u8; 4], cuts: Vec<prop::sample::Index>) {
            let mut expect = data.clone();
            naive(&mut expect, key, 0);
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(data.len() + 1)).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                unmask_at(&mut data[pair[0]..pair[1]], key, pair[0]);
            }
            prop_assert_eq!(data, expect);
        }
    }
}
