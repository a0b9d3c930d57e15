//! What is said to etcd's JSON gateway and what it says back (`/v3`, etcd 3.4 and later).
//!
//! Bytes are base64 and 64-bit numbers are strings, as in protobuf's JSON mapping. Servers differ in the spelling of
//! field names (`response_range`, `responseRange`), so both are read.

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::json;

use super::error::Trouble;

/// Longest answer that is read. A record and its envelope have less than 2 KiB.
pub const ANSWER_MAX: u64 = 64 << 10;

/// gRPC status codes that mean something here.
const CODE_UNAVAILABLE: u64 = 14;

/// A question about the key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    Read,
    /// Put `proposed` if the key's value is `expected` (`None`: if there is no such key), else tell the value.
    Swap {
        expected: Option<Vec<u8>>,
        proposed: Vec<u8>,
    },
}

/// etcd's answer to a [`Request`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    Value(Option<Vec<u8>>),
    /// The value was put.
    Put,
}

impl Request {
    pub fn path(&self) -> &'static str {
        match self {
            Self::Read => "/v3/kv/range",
            Self::Swap { .. } => "/v3/kv/txn",
        }
    }

    pub fn body(&self, key: &str) -> Vec<u8> {
        let key = BASE64.encode(key.as_bytes());
        let range = json!({ "key": key });
        let body = match self {
            Self::Read => range,
            Self::Swap { expected, proposed } => {
                let guard = match expected {
                    Some(value) => json!({
                        "key": key, "target": "VALUE", "result": "EQUAL", "value": BASE64.encode(value)
                    }),
                    None => json!({ "key": key, "target": "VERSION", "result": "EQUAL", "version": "0" }),
                };
                json!({
                    "compare": [guard],
                    "success": [{ "requestPut": { "key": key, "value": BASE64.encode(proposed) } }],
                    "failure": [{ "requestRange": range }],
                })
            }
        };
        body.to_string().into_bytes()
    }

    /// What the body of a good answer says: the cluster's identifier, and the answer.
    pub fn read(&self, body: &[u8]) -> Result<(u64, Answer), Trouble> {
        match self {
            Self::Read => {
                let range: Range = parse(body)?;
                let cluster = cluster(&range.header)?;
                Ok((cluster, Answer::Value(range.value()?)))
            }
            Self::Swap { .. } => {
                let txn: Txn = parse(body)?;
                let cluster = cluster(&txn.header)?;
                if txn.succeeded {
                    return Ok((cluster, Answer::Put));
                }
                let range = txn.responses.into_iter().find_map(|part| part.range);
                let range = range.ok_or_else(|| Trouble::NotEtcd("a txn without its range".to_owned()))?;
                Ok((cluster, Answer::Value(range.value()?)))
            }
        }
    }
}

/// The body that asks for a token.
pub fn login(user: &str, password: &str) -> Vec<u8> {
    json!({ "name": user, "password": password }).to_string().into_bytes()
}

/// The token in the answer.
pub fn token(body: &[u8]) -> Result<String, Trouble> {
    let Token { token } = parse(body)?;
    let plain = |byte: u8| (0x21..0x7F).contains(&byte);
    if token.is_empty() || !token.bytes().all(plain) {
        return Err(Trouble::NotEtcd("a token that is none".to_owned()));
    }
    Ok(token)
}

/// What an answer with another status than 200 means. Returns `None` where a fresh token may help.
pub fn refusal(status: u16, body: &[u8], key: &str) -> Option<Trouble> {
    if body.starts_with(b"CommonName of client") {
        return Some(Trouble::NamedCertificate);
    }
    let Ok(error) = serde_json::from_slice::<Fault>(body_of_error(body)) else {
        return Some(Trouble::NotEtcd(format!("status {status} without an error of etcd's")));
    };
    let text = if error.message.is_empty() { &error.error } else { &error.message };
    let text = printable(text);
    let has = |part: &str| text.contains(part);
    Some(match () {
        () if has("invalid auth token") || has("revision of auth store is old") => return None,
        () if has("database space exceeded") => Trouble::NoSpace,
        () if has("corrupt cluster") => Trouble::Corrupt,
        () if has("user name is empty") => Trouble::LoginWanted,
        () if has("invalid user ID or password") => Trouble::LoginRefused,
        () if has("permission denied") => Trouble::Denied { key: key.to_owned() },
        () if has("no leader") || has("leader changed") || has("request timed out") => {
            Trouble::NoLeader(text)
        }
        () if error.code == CODE_UNAVAILABLE => Trouble::NoLeader(text),
        () => Trouble::Refused { code: error.code, message: text },
    })
}

/// May be told when a login is tried: the server has no users at all.
pub fn says_no_users(body: &[u8]) -> bool {
    serde_json::from_slice::<Fault>(body_of_error(body)).is_ok_and(|fault| {
        fault.error.contains("authentication is not enabled")
            || fault.message.contains("authentication is not enabled")
    })
}

/// The first JSON value: gateways append gRPC trailers to the text of an error.
fn body_of_error(body: &[u8]) -> &[u8] {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>();
    match values.next() {
        Some(Ok(_)) => &body[..values.byte_offset()],
        _ => body,
    }
}

/// A server's words, fit for a log: one line of bounded length.
pub fn printable(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body).map_err(|error| Trouble::NotEtcd(printable(&error.to_string())))
}

fn cluster(header: &Header) -> Result<u64, Trouble> {
    header
        .cluster_id
        .parse()
        .map_err(|_| Trouble::NotEtcd("an answer without a cluster identifier".to_owned()))
}

#[derive(Deserialize, Default)]
struct Header {
    #[serde(default, alias = "clusterId")]
    cluster_id: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
}

impl Range {
    fn value(self) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(first) = self.kvs.into_iter().next() else { return Ok(None) };
        let bytes = BASE64.decode(first.value.as_bytes());
        bytes.map(Some).map_err(|_| Trouble::NotEtcd("a value that is not base64".to_owned()))
    }
}

#[derive(Deserialize)]
struct KeyValue {
    #[serde(default)]
    value: String,
}

#[derive(Deserialize)]
struct Txn {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(alias = "responseRange", rename = "response_range")]
    range: Option<Range>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    error: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_one_transaction_with_a_guard() {
        let swap = Request::Swap { expected: None, proposed: b"new".to_vec() };
        let body: serde_json::Value = serde_json::from_slice(&swap.body("/k")).expect("JSON");
        assert_eq!(body["compare"][0]["target"], "VERSION");
        assert_eq!(body["compare"][0]["version"], "0");
        let swap = Request::Swap { expected: Some(b"old".to_vec()), proposed: b"new".to_vec() };
        let body: serde_json::Value = serde_json::from_slice(&swap.body("/k")).expect("JSON");
        assert_eq!(body["compare"][0]["value"], "b2xk");
        assert_eq!(body["success"][0]["requestPut"]["value"], "bmV3");
        assert_eq!(body["failure"][0]["requestRange"]["key"], "L2s=");
    }

    #[test]
    fn answers_of_both_spellings_are_read() {
        let swap = Request::Swap { expected: None, proposed: Vec::new() };
        let put = br#"{"header":{"cluster_id":"148"},"succeeded":true,"responses":[{"response_put":{}}]}"#;
        assert_eq!(swap.read(put), Ok((148, Answer::Put)));
        let kept =
            br#"{"header":{"clusterId":"148"},"responses":[{"responseRange":{"kvs":[{"value":"aGk="}]}}]}"#;
        assert_eq!(swap.read(kept), Ok((148, Answer::Value(Some(b"hi".to_vec())))));
        let none = br#"{"header":{"cluster_id":"148"},"responses":[{"response_range":{"header":{}}}]}"#;
        assert_eq!(swap.read(none), Ok((148, Answer::Value(None))));
        assert_eq!(Request::Read.read(br#"{"header":{"cluster_id":"148"}}"#), Ok((148, Answer::Value(None))));
    }

    #[test]
    fn what_is_not_etcd_is_an_error_and_never_an_answer() {
        let swap = Request::Swap { expected: None, proposed: Vec::new() };
        for body in [
            "",
            "<html>",
            "{}",
            "[]",
            "null",
            r#"{"succeeded":true}"#,
            r#"{"header":{"cluster_id":"x"}}"#,
            r#"{"header":{"cluster_id":"1"}}"#,
            r#"{"header":{"cluster_id":"1"},"responses":[{}]}"#,
            r#"{"header":{"cluster_id":"1"},"responses":[{"response_range":{"kvs":[{"value":"%"}]}}]}"#,
            r#"{"header":{"cluster_id":"1"},"succeeded":"yes"}"#,
        ] {
            assert!(matches!(swap.read(body.as_bytes()), Err(Trouble::NotEtcd(_))), "{body}");
        }
        assert!(token(br#"{"token":""}"#).is_err() && token(b"{\"token\":\"a\\r\\nb\"}").is_err());
    }

    #[test]
    fn refusals_are_told_apart() {
        let say = |status, text: &str| {
            let body = format!(r#"{{"error":"{text}","message":"{text}","code":8}}Grpc-Trailer: x"#);
            refusal(status, body.as_bytes(), "/k")
        };
        assert_eq!(say(429, "etcdserver: mvcc: database space exceeded"), Some(Trouble::NoSpace));
        assert_eq!(say(401, "etcdserver: invalid auth token"), None);
        assert_eq!(say(400, "etcdserver: user name is empty"), Some(Trouble::LoginWanted));
        assert_eq!(say(403, "etcdserver: permission denied"), Some(Trouble::Denied { key: "/k".to_owned() }));
        assert!(matches!(say(503, "etcdserver: no leader"), Some(Trouble::NoLeader(_))));
        assert!(matches!(say(500, "what"), Some(Trouble::Refused { code: 8, .. })));
        let named = b"CommonName of client sending a request against gateway will be ignored";
        assert_eq!(refusal(400, named, "/k"), Some(Trouble::NamedCertificate));
        assert!(matches!(refusal(502, b"<html>bad gateway", "/k"), Some(Trouble::NotEtcd(_))));
        assert_eq!(printable("a\u{1b}[0m\nb"), "a [0m b");
    }
}
