//! Tokens against keys: what is accepted, and why the rest is not.

use jsonwebtoken::{Algorithm, EncodingKey};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{AuthError, Claims, KeyMaterial, NewToken, Verifier, sign};
use crate::config::{self, Secret};
use crate::limits::{CLAIM_ENTRIES_MAX, TOKEN_BYTES_MAX};

const SECRET: &str = "a secret for the tests of this file";
const NOW: u64 = 1_800_000_000;

macro_rules! key_file {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/", $name))
    };
}

mod keys;

const RSA_PUBLIC: &[u8] = key_file!("rsa.pub.pem");
const P256_PUBLIC: &[u8] = key_file!("ec256.pub.pem");
const P384_PUBLIC: &[u8] = key_file!("ec384.pub.pem");
const ED_PUBLIC: &[u8] = key_file!("ed25519.pub.pem");
const ALGORITHMS: [&str; 9] = ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"];

fn private_key(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::ES256 => EncodingKey::from_ec_pem(key_file!("ec256.key.pem")).unwrap(),
        Algorithm::ES384 => EncodingKey::from_ec_pem(key_file!("ec384.key.pem")).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(key_file!("ed25519.key.pem")).unwrap(),
        _ => EncodingKey::from_rsa_pem(key_file!("rsa.key.pem")).unwrap(),
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with exactly these texts, signed.
fn token_of(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", base64(header), base64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn token(algorithm: &str, payload: &Value) -> String {
    let parsed: Algorithm = algorithm.parse().unwrap();
    token_of(&json!({"alg": algorithm, "typ": "JWT"}).to_string(), &payload.to_string(), &private_key(parsed), parsed)
}

fn hs256(payload: &str) -> String {
    token_of(r#"{"alg":"HS256"}"#, payload, &private_key(Algorithm::HS256), Algorithm::HS256)
}

fn hmac_auth() -> config::Auth {
    config::Auth { hmac_secret: Some(Secret(SECRET.to_owned())), ..config::Auth::default() }
}

fn pem(files: &[&[u8]]) -> KeyMaterial {
    KeyMaterial { pem: files.iter().map(|bytes| ("test.pem".to_owned(), bytes.to_vec())).collect(), jwks: None }
}

fn hmac_verifier() -> Verifier {
    Verifier::new(&hmac_auth(), &KeyMaterial::default()).unwrap()
}

fn everything() -> Verifier {
    Verifier::new(&hmac_auth(), &pem(&[RSA_PUBLIC, P256_PUBLIC, P384_PUBLIC, ED_PUBLIC])).unwrap()
}

fn user(claims: Result<Claims, AuthError>) -> Result<String, AuthError> {
    claims.map(|claims| claims.user.into_string())
}

#[test]
fn every_algorithm_is_verified_with_its_key() {
    let verifier = everything();
    for algorithm in ALGORITHMS {
        let token = token(algorithm, &json!({"sub": "ann", "exp": NOW + 1}));
        assert_eq!(user(verifier.verify(&token, NOW)), Ok("ann".to_owned()), "{algorithm}");
        let (message, _) = token.rsplit_once('.').unwrap();
        let unsigned = [format!("{message}."), format!("{message}.AAAA"), format!("{message}.{}", base64([7; 64]))];
        for broken in unsigned {
            assert_eq!(user(verifier.verify(&broken, NOW)), Err(AuthError::BadSignature), "{algorithm}");
        }
        let (header, signed_payload) = message.split_once('.').unwrap();
        let other = base64(r#"{"sub":"root"}"#);
        let forged = token.replace(signed_payload, &other);
        assert!(forged.starts_with(header) && forged.contains(&other));
        assert_eq!(user(verifier.verify(&forged, NOW)), Err(AuthError::BadSignature), "{algorithm}");
    }
}

#[test]
fn a_key_is_used_with_its_own_algorithms_only() {
    let families: [(&str, &[u8], &[&str]); 4] = [
        ("rsa", RSA_PUBLIC, &["RS256", "RS384", "RS512"]),
        ("p256", P256_PUBLIC, &["ES256"]),
        ("p384", P384_PUBLIC, &["ES384"]),
        ("ed25519", ED_PUBLIC, &["EdDSA"]),
    ];
    for (name, public, own) in families {
        let verifier = Verifier::new(&config::Auth::default(), &pem(&[public])).unwrap();
        for algorithm in ALGORITHMS {
            let expect =
                if own.contains(&algorithm) { Ok("ann".to_owned()) } else { Err(AuthError::UnsupportedAlgorithm) };
            assert_eq!(
                user(verifier.verify(&token(algorithm, &json!({"sub": "ann"})), NOW)),
                expect,
                "{name} {algorithm}"
            );
        }
        // The classic: signed with HMAC, the public key as the secret.
        for algorithm in ["HS256", "HS384", "HS512"] {
            let key = EncodingKey::from_secret(public);
            let header = json!({"alg": algorithm}).to_string();
            let token = token_of(&header, r#"{"sub":"root"}"#, &key, algorithm.parse().unwrap());
            assert_eq!(user(verifier.verify(&token, NOW)), Err(AuthError::UnsupportedAlgorithm), "{name} {algorithm}");
            assert_eq!(user(everything().verify(&token, NOW)), Err(AuthError::BadSignature), "{name} {algorithm}");
        }
    }
    // Signed with one algorithm, the header says another.
    for (says, signed) in
        [("HS512", "HS256"), ("RS512", "RS256"), ("RS256", "HS256"), ("ES384", "ES256"), ("EdDSA", "ES256")]
    {
        let signed: Algorithm = signed.parse().unwrap();
        let token = token_of(&json!({"alg": says}).to_string(), r#"{"sub":"ann"}"#, &private_key(signed), signed);
        assert_eq!(user(everything().verify(&token, NOW)), Err(AuthError::BadSignature), "{says} {signed:?}");
    }
}

#[test]
fn headers() {
    use AuthError::*;
    let table = [
        (r#"{"alg":"none"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"None"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"NONE"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":""}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"hs256"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"PS256"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"ES256K"}"#, Err(UnsupportedAlgorithm)),
        (r#"{"alg":"HS256","kid":"any"}"#, Ok("ann".to_owned())),
        (r#"{"typ":"at+jwt","alg":"HS256","x":[1]}"#, Ok("ann".to_owned())),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"},"jku":"http://evil"}"#, Ok("ann".to_owned())),
        (r#"{"alg":"HS256","alg":"none"}"#, Err(Malformed)),
        (r#"{"alg":"HS256","kid":1}"#, Err(Malformed)),
        (r#"{"alg":["HS256"]}"#, Err(Malformed)),
        (r#"{"alg":null}"#, Err(Malformed)),
        (r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, Err(Malformed)),
        (r#"{}"#, Err(Malformed)),
        (r#"[]"#, Err(Malformed)),
        (r#"["HS256",null,null]"#, Err(Malformed)),
        (r#""HS256""#, Err(Malformed)),
        ("", Err(Malformed)),
        (r#"{"alg":"HS256"} x"#, Err(Malformed)),
    ];
    for (header, expect) in table {
        let token = token_of(header, r#"{"sub":"ann"}"#, &private_key(Algorithm::HS256), Algorithm::HS256);
        assert_eq!(user(hmac_verifier().verify(&token, NOW)), expect, "{header}");
    }
}

#[test]
fn claims() {
    use AuthError::*;
    let long = "n".repeat(129);
    let many = json!(vec!["room"; CLAIM_ENTRIES_MAX + 1]);
    let many_permissions = json!(vec!["join:a"; CLAIM_ENTRIES_MAX + 1]);
    let table = [
        (json!({"sub": "ann"}), None),
        (json!({"sub": "ann", "exp": NOW + 1}), None),
        (json!({"sub": "ann", "exp": NOW}), Some(Expired)),
        (json!({"sub": "ann", "exp": NOW - 1}), Some(Expired)),
        (json!({"sub": "ann", "exp": NOW as f64 + 0.5}), None),
        (json!({"sub": "ann", "exp": NOW as f64 - 0.5}), Some(Expired)),
        (json!({"sub": "ann", "exp": -1}), Some(Expired)),
        (json!({"sub": "ann", "exp": 0}), Some(Expired)),
        (json!({"sub": "ann", "exp": 1e300}), None),
        (json!({"sub": "ann", "exp": u64::MAX}), None),
        (json!({"sub": "ann", "exp": "tomorrow"}), Some(Malformed)),
        (json!({"sub": "ann", "exp": null}), Some(Malformed)),
        (json!({"sub": "ann", "exp": true}), Some(Malformed)),
        (json!({"sub": "ann", "nbf": NOW}), None),
        (json!({"sub": "ann", "nbf": NOW + 1}), Some(NotYetValid)),
        (json!({"sub": "ann", "nbf": NOW as f64 + 0.5}), Some(NotYetValid)),
        (json!({"sub": "ann", "nbf": -5}), None),
        (json!({"sub": "ann", "nbf": []}), Some(Malformed)),
        (json!({"sub": "ann", "iat": "whatever", "deep": {"a": [{}]}}), None),
        (json!({}), Some(BadSubject)),
        (json!({"sub": null}), Some(BadSubject)),
        (json!({"sub": 7}), Some(BadSubject)),
        (json!({"sub": ["ann"]}), Some(BadSubject)),
        (json!({"sub": ""}), Some(BadSubject)),
        (json!({"sub": "a\nb"}), Some(BadSubject)),
        (json!({"sub": "a\u{0}"}), Some(BadSubject)),
        (json!({"sub": "events"}), Some(BadSubject)),
        (json!({"sub": long}), Some(BadSubject)),
        (json!({"sub": "ann", "permissions": []}), None),
        (json!({"sub": "ann", "permissions": ["send:*", "broadcast"]}), None),
        (json!({"sub": "ann", "permissions": null}), Some(BadPermissions)),
        (json!({"sub": "ann", "permissions": "send:*"}), Some(BadPermissions)),
        (json!({"sub": "ann", "permissions": ["fly:*"]}), Some(BadPermissions)),
        (json!({"sub": "ann", "permissions": [1]}), Some(BadPermissions)),
        (json!({"sub": "ann", "permissions": many_permissions}), Some(BadPermissions)),
        (json!({"sub": "ann", "rooms": ["a", "b"]}), None),
        (json!({"sub": "ann", "rooms": null}), Some(BadRooms)),
        (json!({"sub": "ann", "rooms": [""]}), Some(BadRooms)),
        (json!({"sub": "ann", "rooms": ["a\tb"]}), Some(BadRooms)),
        (json!({"sub": "ann", "rooms": [["a"]]}), Some(BadRooms)),
        (json!({"sub": "ann", "rooms": {"a": 1}}), Some(BadRooms)),
        (json!({"sub": "ann", "rooms": many}), Some(BadRooms)),
        (json!([]), Some(Malformed)),
        (json!(["ann", NOW + 1, NOW, "a", "i", [], []]), Some(Malformed)),
        (json!("ann"), Some(Malformed)),
    ];
    for (payload, expect) in table {
        assert_eq!(hmac_verifier().verify(&hs256(&payload.to_string()), NOW).err(), expect, "{payload}");
    }
    for twice in ["sub", "exp", "nbf", "aud", "iss", "permissions", "rooms"] {
        let value = if ["exp", "nbf"].contains(&twice) { "9999999999" } else { "\"a\"" };
        let payload = format!(r#"{{"{twice}":{value},"{twice}":{value}}}"#);
        assert_eq!(hmac_verifier().verify(&hs256(&payload), NOW).err(), Some(Malformed), "{payload}");
    }
}

#[test]
fn claims_are_taken_over() {
    let payload = json!({"sub": "ann", "exp": NOW as f64 + 9.2, "rooms": ["a", "b", "a"], "permissions": ["send:*"]});
    let claims = hmac_verifier().verify(&hs256(&payload.to_string()), NOW).unwrap();
    assert_eq!((&*claims.user, claims.expires_unix_s), ("ann", Some(NOW + 10)));
    assert_eq!(claims.rooms.iter().map(|room| &**room).collect::<Vec<_>>(), ["a", "b"]);
    assert!(claims.permissions.is_some());
    let bare = hmac_verifier().verify(&hs256(r#"{"sub":"ann"}"#), NOW).unwrap();
    assert!(bare.expires_unix_s.is_none() && bare.permissions.is_none() && bare.rooms.is_empty());
    let far = hmac_verifier().verify(&hs256(r#"{"sub":"ann","exp":1e300}"#), NOW).unwrap();
    assert!(far.expires_unix_s.is_some_and(|exp| exp.checked_mul(1000).is_some()));
}

#[test]
fn audience_and_issuer_are_checked_when_configured() {
    use AuthError::*;
    let expecting = |audience: &[&str], issuer: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let auth = config::Auth { audience: owned(audience), issuer: owned(issuer), ..hmac_auth() };
        Verifier::new(&auth, &KeyMaterial::default()).unwrap()
    };
    let open = expecting(&[], &[]);
    let strict = expecting(&["chat", "game"], &["https://id.example"]);
    let table = [
        (json!({"sub": "ann"}), None, Some(WrongIssuer)),
        (json!({"sub": "ann", "iss": "https://id.example"}), None, Some(WrongAudience)),
        (json!({"sub": "ann", "iss": "https://id.example", "aud": "chat"}), None, None),
        (json!({"sub": "ann", "iss": "https://id.example", "aud": ["shop", "game"]}), None, None),
        (json!({"sub": "ann", "iss": "https://id.example", "aud": ["shop"]}), None, Some(WrongAudience)),
        (json!({"sub": "ann", "iss": "https://id.example", "aud": []}), None, Some(WrongAudience)),
        (json!({"sub": "ann", "iss": "https://id.example", "aud": "Chat"}), None, Some(WrongAudience)),
        (json!({"sub": "ann", "iss": "https://id.example/", "aud": "chat"}), None, Some(WrongIssuer)),
        (json!({"sub": "ann", "iss": 1, "aud": "chat"}), Some(Malformed), Some(Malformed)),
        (json!({"sub": "ann", "aud": {"chat": 1}}), Some(Malformed), Some(Malformed)),
        (json!({"sub": "ann", "aud": [1]}), Some(Malformed), Some(Malformed)),
    ];
    for (payload, open_expect, strict_expect) in table {
        let token = hs256(&payload.to_string());
        assert_eq!(open.verify(&token, NOW).err(), open_expect, "{payload}");
        assert_eq!(strict.verify(&token, NOW).err(), strict_expect, "{payload}");
    }
}

#[test]
fn bad_signatures_are_told_before_anything_else() {
    let other = EncodingKey::from_secret(b"another secret that is long enough");
    let payload = json!({"sub": 7, "exp": 1}).to_string();
    let token = token_of(r#"{"alg":"HS256"}"#, &payload, &other, Algorithm::HS256);
    assert_eq!(user(hmac_verifier().verify(&token, NOW)), Err(AuthError::BadSignature));
}

#[test]
fn shapes_that_are_no_token() {
    let good = hs256(r#"{"sub":"ann"}"#);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let long = hs256(&json!({"sub": "ann", "pad": "x".repeat(TOKEN_BYTES_MAX)}).to_string());
    let table = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b".to_owned(),
        "a.b.c".to_owned(),
        message.to_owned(),
        format!("{good}.x"),
        format!("{message}.x.{signature}"),
        format!(" {good}"),
        good.replacen('.', "=.", 1),
        "ä.ö.ü".to_owned(),
        "x".repeat(TOKEN_BYTES_MAX + 1),
        long,
    ];
    for token in table {
        assert_eq!(user(hmac_verifier().verify(&token, NOW)), Err(AuthError::Malformed), "{token}");
    }
    assert_eq!(user(hmac_verifier().verify(&format!("{good}="), NOW)), Err(AuthError::BadSignature));
}

#[test]
fn errors_and_debug_tell_no_secret() {
    let verifier = everything();
    let shown = format!("{verifier:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("BEGIN"), "{shown}");
    let auth = config::Auth { hmac_secret: Some(Secret("too short".to_owned())), ..config::Auth::default() };
    assert!(!Verifier::new(&auth, &KeyMaterial::default()).unwrap_err().to_string().contains("too short"));
}

#[test]
fn one_verifier_serves_all_shards() {
    fn shared<T: Send + Sync>() {}
    shared::<Verifier>();
}

#[test]
fn signed_tokens_are_accepted() {
    let auth = config::Auth { audience: vec!["chat".to_owned()], issuer: vec!["me".to_owned()], ..hmac_auth() };
    let verifier = Verifier::new(&auth, &KeyMaterial::default()).unwrap();
    let new = NewToken {
        user: "ann".to_owned(),
        ttl_s: 60,
        permissions: Some(vec!["send:*".to_owned()]),
        rooms: vec!["lobby".to_owned()],
    };
    let token = sign(&auth, &new, NOW).unwrap();
    let claims = verifier.verify(&token, NOW).unwrap();
    assert_eq!((&*claims.user, claims.expires_unix_s, claims.rooms.len()), ("ann", Some(NOW + 60), 1));
    assert_eq!(user(verifier.verify(&token, NOW + 60)), Err(AuthError::Expired));
    let endless = sign(&auth, &NewToken { ttl_s: 0, permissions: None, ..new.clone() }, NOW).unwrap();
    let claims = verifier.verify(&endless, u64::MAX).unwrap();
    assert!(claims.expires_unix_s.is_none() && claims.permissions.is_none());

    let refused = [
        sign(&config::Auth::default(), &new, NOW),
        sign(&auth, &NewToken { user: "events".to_owned(), ..new.clone() }, NOW),
        sign(&auth, &NewToken { permissions: Some(vec!["fly".to_owned()]), ..new.clone() }, NOW),
        sign(&auth, &NewToken { rooms: vec![String::new()], ..new.clone() }, NOW),
        sign(&auth, &NewToken { rooms: (0..100).map(|i| format!("{i:0100}")).collect(), ..new }, NOW),
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
}

proptest! {
    #[test]
    fn garbage_never_panics(token in ".{0,200}", header in ".{0,60}", payload in ".{0,120}", now: u64) {
        let verifier = everything();
        prop_assert!(verifier.verify(&token, now).is_err());
        let parts = format!("{}.{}.{}", base64(&header), base64(&payload), base64(&token));
        prop_assert!(verifier.verify(&parts, now).is_err());
        let _ = verifier.verify(&hs256(&payload), now);
    }

    #[test]
    fn any_changed_byte_is_refused(at: prop::sample::Index, byte in 32u8..127) {
        let good = hs256(r#"{"sub":"ann"}"#);
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(changed != good);
        prop_assert!(hmac_verifier().verify(&changed, NOW).is_err());
    }
}
