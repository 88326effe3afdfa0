//! Tokens of a tenant.

use base::{PersonName, Role, TenantId, Timestamp, TokenName};
use kernel::tokens::{FIRST_TOKEN, NewToken, TokenInfo};
use kernel::{Operator, Tenant};
use rpc::{
    Answer, Credential, Fault, FaultCode, IssuedToken, RotatedTokens, Row, TokenState, TokenView,
    Until,
};

use super::{Office, feed_all};
use crate::fault::{fault, internal};
use crate::feed::Feed;

impl Office {
    pub(super) async fn issue(
        &self,
        operator: &Operator,
        id: &TenantId,
        (name, role, person): (TokenName, Role, Option<PersonName>),
        expires: Option<Until>,
    ) -> Result<Answer, Fault> {
        let new = NewToken {
            name,
            role,
            person,
            expires: self.end_of("expires", expires)?,
        };
        let tenant = self.tenant(operator, id)?;
        let token = self
            .kernel
            .issue_token(operator, &tenant, new)
            .await
            .map_err(fault)?;
        issued(id, &token, None).map(Answer::Issued)
    }

    pub(super) async fn rotate(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: Option<TokenName>,
        all: bool,
        grace: Option<Until>,
    ) -> Result<Answer, Fault> {
        if all && name.is_some() {
            return Err(Fault::new(
                FaultCode::Invalid,
                "rotate one token by name, or all of them, not both",
            ));
        }
        let now = self.kernel.now();
        let old_until = self.end_of("grace", grace)?.filter(|until| *until > now);
        let tenant = self.tenant(operator, id)?;
        let grace = old_until.map(|until| until.since(now));
        let tokens = if all {
            self.kernel
                .rotate_all_tokens(operator, &tenant, grace)
                .await
                .map_err(fault)?
        } else {
            let first = || {
                FIRST_TOKEN
                    .parse()
                    .map_err(|_| internal("the first token has no valid name"))
            };
            let name = name.map_or_else(first, Ok)?;
            vec![
                self.kernel
                    .rotate_token(operator, &tenant, &name, grace)
                    .await
                    .map_err(fault)?,
            ]
        };
        let tokens = tokens
            .iter()
            .map(|token| issued(id, token, old_until))
            .collect::<Result<_, _>>()?;
        Ok(Answer::Rotated(RotatedTokens { tokens }))
    }

    pub(super) async fn list_tokens(
        &self,
        operator: &Operator,
        id: &TenantId,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let now = self.kernel.now();
        let tokens = self.kernel.list_tokens(operator, &tenant);
        feed_all(
            tokens
                .into_iter()
                .map(|token| Row::Token(view(&tenant, token, now))),
            to,
        )
        .await
    }

    pub(super) async fn revoke(
        &self,
        operator: &Operator,
        id: &TenantId,
        name: &TokenName,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        self.kernel
            .revoke_token(operator, &tenant, name)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!("token {name} of {id} is revoked"),
        })
    }
}

/// The text of a new token, on its way to the one answer that shows it.
pub(super) fn credential(token: &kernel::tokens::IssuedToken) -> Result<Credential, Fault> {
    let text = token.text.expose_str().unwrap_or_default();
    Credential::new(text.to_owned()).map_err(|_| internal("a token without text was issued"))
}

/// A token just issued, as its owner is shown it once.
pub(crate) fn issued(
    tenant: &TenantId,
    token: &kernel::tokens::IssuedToken,
    old_valid_until: Option<Timestamp>,
) -> Result<IssuedToken, Fault> {
    Ok(IssuedToken {
        tenant: tenant.clone(),
        name: token.name.clone(),
        role: token.role,
        person: token.person.clone(),
        token: credential(token)?,
        expires_at: token.expires,
        old_valid_until,
    })
}

pub(super) fn view(tenant: &Tenant, token: TokenInfo, now: Timestamp) -> TokenView {
    let state = if token.revoked.is_some_and(|at| at <= now) {
        TokenState::Revoked
    } else if token.expires.is_some_and(|at| at <= now) {
        TokenState::Expired
    } else if token.revoked.is_some() {
        TokenState::Grace
    } else {
        TokenState::Active
    };
    TokenView {
        name: token.name,
        role: token.role,
        person: token.person,
        prefix: format!("tk_{}_", tenant.id()),
        state,
        created_at: token.created,
        expires_at: token.expires,
        last_used_day: token.last_used,
    }
}
