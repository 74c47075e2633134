//! Public keys in PEM files (RFC 7468).

use jsonwebtoken::DecodingKey;

use super::key::{Key, KeyError};

const BEGIN: &str = "-----BEGIN ";

/// The public keys of a PEM file: one or more.
pub(super) fn keys(name: &str, bytes: &[u8]) -> Result<Vec<Key>, KeyError> {
    let text = std::str::from_utf8(bytes).map_err(|_| KeyError::new(name, "not a PEM file"))?;
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Err(KeyError::new(name, "not a PEM file: expected -----BEGIN PUBLIC KEY-----"));
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(start, end)| key(&text[*start..end]).map_err(|what| KeyError::new(name, what)))
        .collect()
}

fn key(block: &str) -> Result<Key, String> {
    let label = block[BEGIN.len()..].split("-----").next().unwrap_or_default();
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => {}
        // Checking signatures needs no private key, and this machine should not have it.
        _ if label.ends_with("PRIVATE KEY") => {
            return Err("a private key; expected the public one (openssl pkey -pubout)".to_owned());
        }
        "CERTIFICATE" => return Err("a certificate; expected its public key (openssl x509 -pubkey -noout)".to_owned()),
        _ => return Err("not a public key; expected -----BEGIN PUBLIC KEY-----".to_owned()),
    }
    let pem = block.as_bytes();
    // Each constructor refuses the keys of the other families by their object identifier.
    if let Ok(decoding) = DecodingKey::from_ec_pem(pem) {
        Key::ec(decoding)
    } else if let Ok(decoding) = DecodingKey::from_ed_pem(pem) {
        Key::ed(decoding)
    } else if let Ok(decoding) = DecodingKey::from_rsa_pem(pem) {
        Key::rsa(decoding)
    } else {
        Err("not a public key of RSA, EC (P-256, P-384) or Ed25519".to_owned())
    }
}
