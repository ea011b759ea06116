/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define RECORD_BYTES 16384u
/* Header, content type, tag; a KeyUpdate or an alert may come before or after. */
#define RECORD_EXTRA_BYTES 512u
/* Ciphertext that one pass takes and one send gives: R4, and what stays in the caches. */
#define BUFFER_BYTES (16 * (RECORD_BYTES + RECORD_EXTRA_BYTES))
/* First byte of the records that a handshake begins with. */
#define CONTENT_ALERT 21
#define CONTENT_HANDSHAKE 22
#define ID_LABEL "prl link key"

struct buffer {
    uint32_t from, to;
    uint8_t bytes[BUFFER_BYTES];
};

struct prl_tls {
    SSL *ssl;
    int fd;
    bool server, spoken; /* spoken: something was received */
    bool done, broken;   /* the handshake; no use to say close_notify */
    bool shown;          /* server: the client has named a key of ours */
    uint8_t refusal;
    int received_err; /* -errno; what came before is still read */
    uint32_t key, keys;
    uint32_t records, update_after; /* sent under the present key */
    struct prl_link_tls *counts;
    uint8_t secret[PRL_TLS_KEYS_MAX][PRL_TLS_KEY_BYTES]; /* until the handshake is done */
    uint8_t staged[RECORD_BYTES];
    struct buffer in, out; /* of ciphertext alone */
};

static SSL_CTX *context[2]; /* client, server */
static BIO_METHOD *buffers;
static pthread_once_t prepared = PTHREAD_ONCE_INIT;

/* ---- between OpenSSL and the buffers ---- */

static int give(BIO *bio, char *to, int bytes)
{
    struct buffer *in = &((struct prl_tls *)BIO_get_data(bio))->in;
    int have = (int)(in->to - in->from);

    BIO_clear_retry_flags(bio);
    if (!have) {
        BIO_set_retry_read(bio);
        return -1;
    }
    have = have < bytes ? have : bytes;
    memcpy(to, in->bytes + in->from, (size_t)have);
    in->from += (uint32_t)have;
    return have;
}

static int take(BIO *bio, const char *from, int bytes)
{
    struct buffer *out = &((struct prl_tls *)BIO_get_data(bio))->out;
    uint32_t room = BUFFER_BYTES - out->to;

    BIO_clear_retry_flags(bio);
    if (!room) {
        BIO_set_retry_write(bio);
        return -1;
    }
    bytes = (uint32_t)bytes < room ? bytes : (int)room;
    memcpy(out->bytes + out->to, from, (size_t)bytes);
    out->to += (uint32_t)bytes;
    return bytes;
}

static long control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH;
}

/* ---- between the buffers and the socket ---- */

static uint32_t unsent(const struct prl_tls *tls)
{
    return tls->out.to - tls->out.from;
}

/* 0: all is sent. -EAGAIN: some is left. */
static int drain(struct prl_tls *tls)
{
    struct buffer *out = &tls->out;

    while (unsent(tls)) {
        ssize_t sent = send(tls->fd, out->bytes + out->from, unsent(tls), MSG_DONTWAIT | MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -errno;
        out->from += (uint32_t)sent;
    }
    out->from = out->to = 0;
    return 0;
}

/* One read, so that a pass is bounded; whether anything came. */
static bool fill(struct prl_tls *tls)
{
    struct buffer *in = &tls->in;
    ssize_t got;

    if (tls->received_err)
        return false;
    if (in->from) { /* less than a record */
        memmove(in->bytes, in->bytes + in->from, in->to - in->from);
        in->to -= in->from;
        in->from = 0;
    }
    if (in->to == BUFFER_BYTES)
        return false;
    do
        got = recv(tls->fd, in->bytes + in->to, BUFFER_BYTES - in->to, MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got < 0) {
        if (errno != EAGAIN)
            tls->received_err = -errno;
        return false;
    }
    if (!got) { /* close_notify would have been read by now */
        tls->received_err = -ECONNRESET;
        return false;
    }
    in->to += (uint32_t)got;
    return true;
}

/* ---- keys ---- */

int prl_tls_key_id(const uint8_t *key, uint8_t *id)
{
    static const char digit[] = "0123456789abcdef";
    uint8_t text[sizeof(ID_LABEL) - 1 + PRL_TLS_KEY_BYTES], hash[EVP_MAX_MD_SIZE];
    bool good;

    memcpy(text, ID_LABEL, sizeof(ID_LABEL) - 1);
    memcpy(text + sizeof(ID_LABEL) - 1, key, PRL_TLS_KEY_BYTES);
    good = EVP_Digest(text, sizeof(text), hash, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_cleanse(text, sizeof(text));
    if (!good)
        return -EIO;
    for (uint32_t i = 0; i < PRL_TLS_ID_BYTES; i++)
        id[i] = (uint8_t)digit[hash[i / 2] >> (i % 2 ? 0 : 4) & 15];
    return 0;
}

static SSL_SESSION *session_of(SSL *ssl, const uint8_t *key)
{
    static const uint8_t aes_128_gcm_sha256[2] = {0x13, 0x01};
    SSL_SESSION *session = SSL_SESSION_new();

    if (session && SSL_SESSION_set1_master_key(session, key, PRL_TLS_KEY_BYTES) &&
        SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, aes_128_gcm_sha256)) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int show_key(SSL *ssl, const EVP_MD *hash, const uint8_t **id, size_t *id_bytes, SSL_SESSION **session)
{
    static _Thread_local uint8_t name[PRL_TLS_ID_BYTES]; /* OpenSSL copies it */
    struct prl_tls *tls = SSL_get_app_data(ssl);

    (void)hash; /* there is one cipher */
    if (prl_tls_key_id(tls->secret[0], name) || !(*session = session_of(ssl, tls->secret[0])))
        return 0;
    *id = name;
    *id_bytes = sizeof(name);
    return 1;
}

static int find_key(SSL *ssl, const uint8_t *id, size_t id_bytes, SSL_SESSION **session)
{
    struct prl_tls *tls = SSL_get_app_data(ssl);
    uint8_t name[PRL_TLS_ID_BYTES];

    *session = NULL;
    for (uint32_t i = 0; i < PRL_TLS_KEYS_MAX && i < tls->keys; i++) {
        if (id_bytes != sizeof(name) || prl_tls_key_id(tls->secret[i], name) ||
            memcmp(id, name, sizeof(name)) != 0)
            continue;
        tls->key = i;
        *session = session_of(ssl, tls->secret[i]);
        tls->shown = *session != NULL;
        return tls->shown;
    }
    return 1; /* none: there is no certificate either, so that this ends here */
}

static SSL_CTX *make_context(const SSL_METHOD *method)
{
    SSL_CTX *made = SSL_CTX_new(method);

    if (!made || !SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(made, "TLS_AES_128_GCM_SHA256") ||
        !SSL_CTX_set1_groups_list(made, "X25519:P-256") || !SSL_CTX_set_num_tickets(made, 0)) {
        SSL_CTX_free(made);
        return NULL;
    }
    SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(made, SSL_OP_NO_TICKET);
    /* The host's openssl.cnf may have said otherwise: no key of the traffic follows from the pair key alone. */
    SSL_CTX_clear_options(made, SSL_OP_ENABLE_MIDDLEBOX_COMPAT | SSL_OP_ALLOW_NO_DHE_KEX);
    SSL_CTX_set_psk_use_session_callback(made, show_key);
    SSL_CTX_set_psk_find_session_callback(made, find_key);
    return made;
}

static void prepare(void)
{
    context[0] = make_context(TLS_client_method());
    context[1] = make_context(TLS_server_method());
    if (context[0]) /* no authority is trusted: a server with a certificate instead of the key is refused */
        SSL_CTX_set_verify(context[0], SSL_VERIFY_PEER, NULL);
    buffers = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "prl link");
    if (!buffers || !BIO_meth_set_read(buffers, give) || !BIO_meth_set_write(buffers, take) ||
        !BIO_meth_set_ctrl(buffers, control)) {
        BIO_meth_free(buffers);
        buffers = NULL;
    }
    ERR_clear_error();
}

/* ---- handshake ---- */

struct prl_tls *prl_tls_open(int fd, bool server, const uint8_t *keys, uint32_t count)
{
    struct prl_tls *tls = NULL;
    BIO *bio = NULL;

    pthread_once(&prepared, prepare);
    if (!context[server] || !buffers || !count || count > PRL_TLS_KEYS_MAX)
        return NULL;
    tls = malloc(sizeof(*tls));
    if (!tls)
        return NULL;
    memset(tls, 0, offsetof(struct prl_tls, staged));
    tls->in.from = tls->in.to = tls->out.from = tls->out.to = 0;
    tls->fd = fd;
    tls->server = server;
    tls->keys = count;
    tls->update_after = PRL_TLS_UPDATE_RECORDS;
    memcpy(tls->secret, keys, (size_t)count * PRL_TLS_KEY_BYTES);
    tls->ssl = SSL_new(context[server]);
    bio = BIO_new(buffers);
    if (!tls->ssl || !bio || !SSL_set_app_data(tls->ssl, tls)) {
        BIO_free(bio);
        SSL_free(tls->ssl);
        OPENSSL_cleanse(tls->secret, sizeof(tls->secret));
        free(tls);
        ERR_clear_error();
        return NULL;
    }
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    if (server)
        SSL_set_accept_state(tls->ssl);
    else
        SSL_set_connect_state(tls->ssl);
    return tls;
}

static int refuse(struct prl_tls *tls, enum prl_tls_refusal why, int err)
{
    tls->refusal = (uint8_t)why;
    tls->broken = true;
    ERR_clear_error();
    drain(tls); /* the alert */
    return err;
}

static enum prl_tls_refusal refusal_of(const struct prl_tls *tls)
{
    int reason = ERR_GET_REASON(ERR_peek_error());

    if (tls->server)
        return tls->shown && reason != SSL_R_BINDER_DOES_NOT_VERIFY ? PRL_TLS_REFUSED_FORGED : PRL_TLS_REFUSED_KEY;
    /* An alert in clear may be anybody's; a server that cannot show the key has a certificate, or none. */
    return reason == SSL_R_BAD_SIGNATURE || reason == SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC
               ? PRL_TLS_REFUSED_FORGED
               : PRL_TLS_REFUSED_KEY;
}

int prl_tls_handshake(struct prl_tls *tls)
{
    for (;;) {
        int done = SSL_do_handshake(tls->ssl), err = drain(tls);

        if (err && err != -EAGAIN)
            return refuse(tls, PRL_TLS_REFUSED_ENDED, err);
        if (done == 1)
            break;
        if (SSL_get_error(tls->ssl, done) != SSL_ERROR_WANT_READ)
            return refuse(tls, refusal_of(tls), -EPROTO);
        if (!fill(tls))
            return tls->received_err ? refuse(tls, PRL_TLS_REFUSED_ENDED, tls->received_err) : -EAGAIN;
        if (!tls->spoken && tls->in.bytes[0] != CONTENT_HANDSHAKE &&
            (tls->server || tls->in.bytes[0] != CONTENT_ALERT))
            return refuse(tls, PRL_TLS_REFUSED_PLAIN, -EPROTO);
        tls->spoken = true;
    }
    if (!SSL_session_reused(tls->ssl)) /* what OpenSSL calls a connection that a PSK was used for */
        return refuse(tls, PRL_TLS_REFUSED_KEY, -EPROTO);
    tls->done = true;
    OPENSSL_cleanse(tls->secret, sizeof(tls->secret));
    return 0;
}

enum prl_tls_refusal prl_tls_refusal(const struct prl_tls *tls)
{
    return tls->refusal;
}

bool prl_tls_unsent(const struct prl_tls *tls)
{
    return unsent(tls) > 0;
}

uint32_t prl_tls_key(const struct prl_tls *tls)
{
    return tls->key;
}

void prl_tls_update_after(struct prl_tls *tls, uint32_t records)
{
    tls->update_after = records;
}

void prl_tls_close(struct prl_tls *tls)
{
    if (!tls)
        return;
    if (tls->done && !tls->broken && SSL_shutdown(tls->ssl) >= 0)
        drain(tls);
    ERR_clear_error();
    close(tls->fd);
    SSL_free(tls->ssl);
    /* Not what is ciphertext: a take-over waits for this, and most pages of the buffers were never touched. */
    OPENSSL_cleanse(tls, tls->done ? offsetof(struct prl_tls, in) : offsetof(struct prl_tls, staged));
    free(tls);
}

/* ---- the link's transport ---- */

static ssize_t tls_read(void *state, void *buf, size_t bytes)
{
    struct prl_tls *tls = state;
    size_t got = 0, one;

    if (tls->broken)
        return -EBADMSG;
    fill(tls);
    ERR_clear_error(); /* what others of this thread left there, SSL_get_error() would take for ours */
    while (got < bytes && SSL_read_ex(tls->ssl, (uint8_t *)buf + got, bytes - got, &one) == 1) {
        got += one;
        tls->counts->received++;
    }
    if (got == bytes)
        return (ssize_t)got;
    switch (SSL_get_error(tls->ssl, 0)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE: /* an answer to a KeyUpdate has no room yet: it goes with the next flush */
        if (got)
            return (ssize_t)got;
        if (tls->received_err == -ECONNRESET)
            tls->counts->truncated++;
        return tls->received_err ? tls->received_err : -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return (ssize_t)got;
    default:
        ERR_clear_error();
        tls->broken = true;
        tls->counts->forged++;
        return got ? (ssize_t)got : -EBADMSG;
    }
}

struct cursor {
    const struct iovec *piece, *end;
    size_t at; /* in the present piece */
};

/* The next record's bytes: where they lie, if that is one place, else copied together. Their number; 0: no more. */
static size_t next_record(struct cursor *cursor, uint8_t *staged, const uint8_t **from)
{
    size_t bytes = 0;

    while (cursor->piece < cursor->end && bytes < RECORD_BYTES) {
        const uint8_t *base = (const uint8_t *)cursor->piece->iov_base + cursor->at;
        size_t left = cursor->piece->iov_len - cursor->at;
        size_t part = left < RECORD_BYTES - bytes ? left : RECORD_BYTES - bytes;
        bool whole = !bytes && (part == RECORD_BYTES || cursor->piece + 1 == cursor->end);

        if (!whole)
            memcpy(staged + bytes, base, part);
        *from = whole ? base : staged;
        bytes += part;
        cursor->at += part;
        if (part == left) {
            cursor->piece++;
            cursor->at = 0;
        }
    }
    return bytes;
}

static ssize_t tls_writev(void *state, const struct iovec *piece, int pieces)
{
    struct prl_tls *tls = state;
    struct cursor cursor = {.piece = piece, .end = piece + pieces};
    size_t sent = 0, bytes, one;
    const uint8_t *from = NULL;
    int err = drain(tls);

    if (err)
        return err;
    while (BUFFER_BYTES - tls->out.to >= RECORD_BYTES + RECORD_EXTRA_BYTES &&
           (bytes = next_record(&cursor, tls->staged, &from)) != 0) {
        if (tls->records >= tls->update_after && SSL_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1) {
            tls->records = 0;
            tls->counts->key_updates++;
        }
        if (SSL_write_ex(tls->ssl, from, bytes, &one) != 1) { /* there is room: the connection has failed */
            ERR_clear_error();
            tls->broken = true;
            return -EBADMSG;
        }
        sent += bytes;
        tls->records++;
        tls->counts->sent++;
    }
    err = drain(tls);
    return err && err != -EAGAIN ? err : (ssize_t)sent;
}

static bool tls_unsent(const void *state)
{
    return prl_tls_unsent(state);
}

static bool tls_unread(const void *state)
{
    const struct prl_tls *tls = state;

    return tls->in.to > tls->in.from || SSL_pending(tls->ssl) > 0;
}

static void tls_close(void *state)
{
    prl_tls_close(state);
}

/* RFC 8446, 7.5. The label is none that is registered (RFC 5705, 4); key updates change nothing in it. */
static int tls_secret(const void *state, uint8_t secret[PRL_LINK_SECRET_BYTES])
{
    static const char label[] = "EXPERIMENTAL prl LAN";
    const struct prl_tls *tls = state;

    return SSL_export_keying_material(tls->ssl, secret, PRL_LINK_SECRET_BYTES, label, sizeof(label) - 1, NULL, 0,
                                      0) == 1
               ? 0
               : -EPROTO;
}

static const struct prl_transport transport = {
    .read = tls_read,
    .writev = tls_writev,
    .unsent = tls_unsent,
    .unread = tls_unread,
    .close = tls_close,
    .secret = tls_secret,
};

void prl_link_attach_tls(struct prl_link *link, struct prl_tls *tls)
{
    tls->counts = &link->tls;
    prl_link_attach(link, &transport, tls, tls->fd);
}
