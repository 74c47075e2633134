//! Key files: PEM and JWKS.

use super::*;

fn jwk(algorithm: &str, extra: Value) -> Value {
    let parsed: Algorithm = algorithm.parse().unwrap();
    let mut jwk =
        serde_json::to_value(jsonwebtoken::jwk::Jwk::from_encoding_key(&private_key(parsed), parsed).unwrap()).unwrap();
    jwk.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    jwk
}

fn from_jwks(keys: Value) -> Result<Verifier, crate::auth::KeyError> {
    let text = json!({"keys": keys}).to_string();
    let material = KeyMaterial { pem: Vec::new(), jwks: Some(("jwks.json".to_owned(), text.into_bytes())) };
    Verifier::new(&config::Auth::default(), &material)
}

fn with_kid(algorithm: &str, kid: Option<&str>) -> String {
    let parsed: Algorithm = algorithm.parse().unwrap();
    let header = kid.map_or(json!({"alg": algorithm}), |kid| json!({"alg": algorithm, "kid": kid}));
    token_of(&header.to_string(), r#"{"sub":"ann"}"#, &private_key(parsed), parsed)
}

#[test]
fn kid_chooses_among_the_keys_of_a_set() {
    use AuthError::*;
    let keys = json!([
        jwk("RS256", json!({"kid": "r", "use": "sig"})),
        jwk("ES256", json!({"kid": "e"})),
        jwk("ES384", json!({"kid": "e3", "key_ops": ["verify"]})),
        jwk("EdDSA", json!({"kid": "d"})),
        jwk("HS256", json!({"kid": "h"})),
        {"kty": "future", "kid": "f"},
        {"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA", "kid": "p521"},
        jwk("RS512", json!({"kid": "enc", "use": "enc"})),
    ]);
    let verifier = from_jwks(keys).unwrap();
    let table = [
        ("RS256", Some("r"), Ok("ann".to_owned())),
        ("RS256", None, Ok("ann".to_owned())),
        ("RS256", Some("e"), Err(UnknownKey)),
        ("RS256", Some("nobody"), Err(UnknownKey)),
        ("RS256", Some(""), Err(UnknownKey)),
        // `alg` of the key narrows it to RS256.
        ("RS512", Some("r"), Err(UnsupportedAlgorithm)),
        ("RS512", Some("enc"), Err(UnsupportedAlgorithm)),
        ("ES256", Some("e"), Ok("ann".to_owned())),
        ("ES256", Some("e3"), Err(UnknownKey)),
        ("ES384", Some("e3"), Ok("ann".to_owned())),
        ("EdDSA", Some("d"), Ok("ann".to_owned())),
        ("EdDSA", Some("r"), Err(UnknownKey)),
        ("HS256", Some("h"), Ok("ann".to_owned())),
        ("HS256", Some("r"), Err(UnknownKey)),
        ("HS384", Some("h"), Err(UnsupportedAlgorithm)),
    ];
    for (algorithm, kid, expect) in table {
        assert_eq!(user(verifier.verify(&with_kid(algorithm, kid), NOW)), expect, "{algorithm} {kid:?}");
    }
}

#[test]
fn broken_sets_are_refused() {
    let table = [
        (json!([]), "no key in it"),
        (json!([{"kty": "future"}]), "no key in it"),
        (json!([jwk("RS256", json!({"use": "enc"}))]), "no key in it"),
        (json!([{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]), "an RSA key of 17 bits; expected 2048 to 4096"),
        (json!([jwk("RS256", json!({"e": "AQ"}))]), "a bad exponent"),
        (json!([jwk("RS256", json!({"n": "!"}))]), "key 1 of the set: not base64url"),
        (json!([jwk("ES256", json!({"x": "AAAA"}))]), "other than P-256"),
        (json!([jwk("ES256", json!({"x": base64([1; 32])}))]), "not on P-256"),
        (json!([jwk("ES256", json!({"crv": "P-384"}))]), "not of its curve"),
        (json!([jwk("EdDSA", json!({"x": "AAAA"}))]), "expected 32 bytes"),
        (json!([{"kty": "oct", "k": base64("short")}]), "5 bytes; expected at least 32"),
        (json!([7]), "key 1 of the set: not a JWK"),
        (json!(vec![jwk("ES256", json!({})); 65]), "65 keys; expected at most 64"),
        (json!({}), "not a JWK set"),
    ];
    for (keys, expect) in table {
        let error = from_jwks(keys.clone()).unwrap_err().to_string();
        assert!(error.starts_with("jwks.json: ") && error.contains(expect), "{keys}: {error}");
    }
}

#[test]
fn pem_files() {
    let table: [(&[u8], &str); 8] = [
        (b"", "not a PEM file"),
        (b"\xff\xfe", "not a PEM file"),
        (key_file!("rsa.key.pem"), "a private key; expected the public one"),
        (key_file!("ec256.key.pem"), "a private key; expected the public one"),
        (key_file!("rsa1024-too-small.pub.pem"), "an RSA key of 1024 bits; expected 2048 to 4096"),
        (key_file!("secp256k1-unsupported.pub.pem"), "not on P-256"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "a certificate; expected its public key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "not a public key"),
    ];
    for (bytes, expect) in table {
        let error = Verifier::new(&config::Auth::default(), &pem(&[bytes])).unwrap_err().to_string();
        assert!(error.starts_with("test.pem: ") && error.contains(expect), "{error}");
    }
    let both = [RSA_PUBLIC, P256_PUBLIC].concat();
    let verifier = Verifier::new(&config::Auth::default(), &pem(&[&both])).unwrap();
    for algorithm in ["RS384", "ES256"] {
        assert!(verifier.verify(&token(algorithm, &json!({"sub": "ann"})), NOW).is_ok());
    }
    assert!(Verifier::new(&config::Auth::default(), &KeyMaterial::default()).is_err());
}

proptest! {
    #[test]
    fn garbage_key_files_never_panic(bytes: Vec<u8>, text in "[A-Za-z0-9+/=\n]{0,300}") {
        let _ = Verifier::new(&config::Auth::default(), &pem(&[&bytes]));
        let block = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
        let _ = Verifier::new(&config::Auth::default(), &pem(&[block.as_bytes()]));
        let _ = from_jwks(json!([{"kty": "OKP", "crv": "Ed25519", "x": text}, {"kty": "EC", "crv": "P-256", "x": text, "y": text}]));
    }
}
