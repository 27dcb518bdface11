//! Who we are to a registry: a challenge in, an Authorization header out. Anonymous, basic, and bearer tokens from the
//! token service that the challenge names (the distribution project's token specification; RFC 9110, 11.6.1).

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use tokio::sync::RwLock;

use crate::images::RegistryConfig;
use crate::registry::{RegistryError, limited_body};

/// Largest answer of a token service that is read.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// A challenge from `WWW-Authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// Reads the challenges of one header value; unknown schemes are left out.
pub(crate) fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        let (token, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parameter_value(value);
            if let Some((_, parameters)) = &mut current {
                parameters.push((token.to_ascii_lowercase(), value));
            }
            rest = after;
        } else {
            challenges.extend(current.take().and_then(challenge));
            current = Some((token.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
    }
    challenges.extend(current.and_then(challenge));
    challenges
}

fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

fn challenge((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |key: &str| parameters.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") }),
        _ => None,
    }
}

/// Name and password for one registry.
#[derive(Clone)]
pub(crate) struct Credentials {
    username: String,
    password: String,
}

impl Credentials {
    /// The configured credentials, or `None` for an anonymous registry.
    pub(crate) async fn read(config: &RegistryConfig) -> Result<Option<Self>, RegistryError> {
        let Some(username) = config.username.clone() else { return Ok(None) };
        let mut password = match &config.password_file {
            Some(path) => read_password(path.clone()).await?,
            None => String::new(),
        };
        password.truncate(password.trim_end_matches(['\r', '\n']).len());
        Ok(Some(Self { username, password }))
    }

    fn basic(&self) -> Option<HeaderValue> {
        let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)));
        sensitive(&text)
    }
}

async fn read_password(path: PathBuf) -> Result<String, RegistryError> {
    tokio::fs::read_to_string(&path).await.map_err(|source| RegistryError::PasswordFile { path, source })
}

/// Kept out of logs by the client.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What one pull knows of its standing with one registry.
pub(crate) struct Auth {
    credentials: Option<Credentials>,
    /// The header that worked last, and how often it was renewed.
    current: RwLock<(Option<HeaderValue>, u64)>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, current: RwLock::default() }
    }

    /// The header to send, and its generation for [`Auth::renew`].
    pub(crate) async fn header(&self) -> (Option<HeaderValue>, u64) {
        self.current.read().await.clone()
    }

    /// Answers a 401: obtains a new header, unless another request has done so since `generation`. `false`: there is
    /// nothing more to try.
    pub(crate) async fn renew(
        &self,
        client: &Client,
        challenges: &[Challenge],
        fallback_scope: &str,
        (secure, generation): (bool, u64),
    ) -> Result<bool, RegistryError> {
        let mut current = self.current.write().await;
        if current.1 != generation {
            return Ok(true);
        }
        let mut header = None;
        for challenge in challenges {
            header = match (challenge, &self.credentials) {
                (Challenge::Bearer { .. }, _) => self.token(client, challenge, fallback_scope, secure).await?,
                (Challenge::Basic, Some(credentials)) => credentials.basic(),
                (Challenge::Basic, None) => None,
            };
            if header.is_some() {
                break;
            }
        }
        let renewed = header.is_some();
        *current = (header, generation + 1);
        Ok(renewed)
    }

    async fn token(
        &self,
        client: &Client,
        challenge: &Challenge,
        fallback_scope: &str,
        secure: bool,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(None) };
        let url = reqwest::Url::parse(realm).map_err(|_| RegistryError::Realm(realm.clone()))?;
        // A registry reached by https must not talk us into sending a password in the clear.
        if url.scheme() != "https" && (secure || url.scheme() != "http") {
            return Err(RegistryError::Realm(realm.clone()));
        }
        let mut query = vec![("scope", scope.as_deref().unwrap_or(fallback_scope))];
        query.extend(service.as_deref().map(|service| ("service", service)));
        let mut request = client.get(url.clone()).query(&query);
        if let Some(basic) = self.credentials.as_ref().and_then(Credentials::basic) {
            request = request.header(AUTHORIZATION, basic);
        }
        let response = request.send().await.map_err(RegistryError::Network)?;
        match response.status().as_u16() {
            200 => {}
            400 | 401 | 403 => return Ok(None),
            _ => return Err(RegistryError::status(url.as_str(), &response)),
        }
        let body = limited_body(response, MAX_TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&body).map_err(RegistryError::Token)?;
        let token = token.token.or(token.access_token);
        Ok(token.and_then(|token| sensitive(&format!("Bearer {token}"))))
    }
}

/// The challenges of a 401.
pub(crate) fn challenges(response: &reqwest::Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    headers.filter_map(|value| value.to_str().ok()).flat_map(parse_challenges).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn challenges_are_read_with_quotes_commas_and_several_schemes() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="reg, \"x\"",scope="repository:a/b:pull,push""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("reg, \"x\"".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse_challenges(header), std::slice::from_ref(&bearer));
        assert_eq!(parse_challenges(&format!("Basic realm=x, {header}")), [Challenge::Basic, bearer.clone()]);
        assert_eq!(parse_challenges(&format!("{header}, Negotiate, basic")), [bearer, Challenge::Basic]);
        for odd in ["", ",,", "Bearer", "=", "Bearer realm", "Bearer realm=\"", "Digest a=b"] {
            assert!(parse_challenges(odd).iter().all(|c| matches!(c, Challenge::Bearer { .. })), "{odd}");
        }
    }

    /// `FUZZ_SECONDS` says for how long, `SEED` with what.
    #[test]
    fn fuzz_damaged_challenges_are_read_to_their_end() {
        const WHOLE: [&str; 4] = [
            r#"Bearer realm="https://auth.example/token",service="reg, \"x\"",scope="repository:a/b:pull,push""#,
            r#"Basic realm="Registry", charset="UTF-8""#,
            r#"Negotiate, Basic realm=x, Bearer realm="https://a/",error="insufficient_scope""#,
            r"Digest nonce=abc==,Bearer realm=https://b/",
        ];
        let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        let seed = number("SEED", 1);
        let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 1));
        let mut state = seed | 1;
        // xorshift64*, as in the other fuzzers.
        let mut below = |bound: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % bound.max(1)
        };
        let (mut headers, mut found) = (0_u64, 0_usize);
        while Instant::now() < end {
            let mut text: Vec<char> = WHOLE[below(WHOLE.len())].chars().collect();
            for _ in 0..below(6) {
                let at = below(text.len());
                match below(3) {
                    0 => drop(text.drain(at..(at + below(12)).min(text.len()))),
                    1 => text.insert(at, ['"', '\\', ',', '=', ' ', '\t', 'é', 'B'][below(8)]),
                    _ => text.extend_from_within(at..(at + below(50)).min(text.len())),
                }
            }
            let text: String = text.into_iter().collect();
            headers += 1;
            for challenge in parse_challenges(&text) {
                found += 1;
                if let Challenge::Bearer { realm, service, scope } = challenge {
                    let told = realm.len() + service.map_or(0, |text| text.len()) + scope.map_or(0, |text| text.len());
                    assert!(told <= text.len(), "seed {seed}: more was read than was said: {text}");
                }
            }
        }
        println!("seed {seed}: {headers} headers, {found} challenges");
        assert!(found > 0, "the generator makes nothing sound");
    }
}
