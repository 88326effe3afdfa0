//! Where limits stood when a call was decided on: what its audit entry says of them.

use serde::{Deserialize, Serialize};

use crate::json_text::Object;
use crate::quota::{Gauge, Quota, Standing};

/// One limit: the quota's place in [`Quota::ALL`], and numbers in its unit. What a ledger row could not hold saturates.
#[derive(Clone, Copy, Serialize, Deserialize, Debug, PartialEq, Eq)]
pub(crate) struct LimitSeen {
    quota: u8,
    limit: i64,
    left: i64,
}

/// Of money, of requests and of tokens, the limit with the least left, the call itself counted at its worst. In the order of the
/// quotas' names.
pub(crate) type LimitsSeen = [Option<LimitSeen>; 3];

/// What an entry says of limits.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) enum Limits<'a> {
    #[default]
    None,
    /// The call was let in.
    Stood(&'a LimitsSeen),
    /// It was refused by this one.
    Refused(QuotaRefusal<'a>),
}

/// The limit that a call was refused by, in the words of the refusal.
#[derive(Clone, Copy, Debug)]
pub struct QuotaRefusal<'a> {
    /// Name of the quota.
    pub quota: &'a str,
    /// What was left, in its unit.
    pub left: &'a str,
    /// The limit, in its unit.
    pub limit: &'a str,
    /// Whose it is: `tenant`, `person` or `token`.
    pub whose: &'a str,
}

pub(crate) fn seen(standing: &Standing) -> LimitsSeen {
    [standing.cost, standing.requests, standing.tokens].map(|gauge| gauge.as_ref().and_then(limit))
}

fn limit(gauge: &Gauge) -> Option<LimitSeen> {
    let number = |value: i128| i64::try_from(value).unwrap_or(i64::MAX);
    Some(LimitSeen {
        quota: u8::try_from(gauge.quota as usize).ok()?,
        limit: number(gauge.limit?),
        left: number(gauge.left()?),
    })
}

/// Writes the member `quotas`: by name, `limit` and `left` as texts. Counts can be larger than the numbers of canonical JSON.
pub(crate) fn write(object: &mut Object<'_>, limits: &Limits<'_>) {
    match limits {
        Limits::None => {}
        Limits::Stood([None, None, None]) => {}
        Limits::Stood(seen) => object.member("quotas", |out| {
            let mut quotas = Object::begin(out);
            for one in seen.iter().flatten() {
                let Some(quota) = Quota::ALL.get(usize::from(one.quota)) else {
                    continue;
                };
                quotas.member(quota.name(), |out| {
                    let mut object = Object::begin(out);
                    object.text("left", &quota.shown(one.left.into()));
                    object.text("limit", &quota.shown(one.limit.into()));
                    object.end();
                });
            }
            quotas.end();
        }),
        Limits::Refused(refused) => object.member("quotas", |out| {
            let mut quotas = Object::begin(out);
            quotas.member(refused.quota, |out| {
                let mut object = Object::begin(out);
                object.text("left", refused.left);
                object.text("limit", refused.limit);
                object.text("whose", refused.whose);
                object.end();
            });
            quotas.end();
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_stand_in_the_order_of_their_names() {
        let gauge = |quota, limit, used| {
            Some(Gauge {
                quota,
                limit,
                used,
                held: 1,
                resets_at: None,
            })
        };
        for (cost, requests, tokens) in [
            (
                Quota::CostPerDay,
                Quota::RequestsPerMinute,
                Quota::TokensPerMinute,
            ),
            (
                Quota::CostPerMonth,
                Quota::RequestsPerSecond,
                Quota::TokensPerDay,
            ),
        ] {
            let standing = Standing {
                cost: gauge(cost, Some(2_500_000_000_000), 500_000_000_000),
                requests: gauge(requests, Some(i128::MAX), 3),
                tokens: gauge(tokens, None, 3),
            };
            let seen = seen(&standing);
            let mut out = Vec::new();
            let mut object = Object::begin(&mut out);
            write(&mut object, &Limits::Stood(&seen));
            object.end();
            let expected = format!(
                r#"{{"quotas":{{"{}":{{"left":"1.999999999999","limit":"2.5"}},"{}":{{"left":"9223372036854775807","limit":"9223372036854775807"}}}}}}"#,
                cost.name(),
                requests.name(),
            );
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        for quota in Quota::ALL {
            assert_eq!(Quota::ALL[quota as usize], quota);
        }
    }
}
