#include "build_config.h"

#include "store/store_redis.h"

#include <stddef.h>

/* The scripts that deal with jobs, their results and their streams. One line of Lua a string: ISO C
 * promises room for 4,095 bytes in one literal only. Redis 6.2's commands and Lua 5.1. */

const char *const redis_lua_get_job[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "local body=false",
    "if N('with_result')>0 then",
    "  if j.f=='kept' and j.xm>now then",
    "    body=redis.pcall('GET',of('result',j.n))",
    "    if type(body)=='table' then bad[#bad+1]=of('result',j.n); return reply('BROKEN') end",
    "    if not body then",
    "      bad[#bad+1]=of('result',j.n)",
    "      j.f='evicted'",
    "    elseif #body~=(j.sb or 0) then",
    "      bad[#bad+1]=of('result',j.n)",
    "      return reply('BROKEN')",
    "    end",
    "  end",
    "elseif N('with_input')>0 and j.ib then",
    "  body=redis.pcall('GET',of('input',j.n))",
    "  if type(body)=='table' then bad[#bad+1]=of('input',j.n); return reply('BROKEN') end",
    "end",
    "return reply('OK','job',out(j),'input_encoding',str(j.ie or 0),'body',body)",
    NULL,
};

const char *const redis_lua_adopt_job[] = {
    "local j,e=load(name())",
    "local sid=S('submit_id')",
    "if e=='BROKEN' then return reply('BROKEN') end",
    "if j then",
    "  if sid~='' and j.sid==sid then return reply('OK','job',out(j)) end",
    "  return reply('OWNED','job',out(j))",
    "end",
    "j=create(name(),S('team'),S('key'),N('kind'),sid)",
    "begin(j)",
    "return reply('OK','job',out(j))",
    NULL,
};

const char *const redis_lua_put_result[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "if j.g~=N('generation') then return reply('CONFLICT','job',out(j)) end",
    "if ended(j) then",
    "  local state=S('state')",
    /* A reply was lost and the same end comes again: the same state and bytes. */
    "  local same=j.s==state and j.dg==A.digest",
    "  if same and j.f=='kept' and S('fate')=='kept' and (j.rb or 0)==N('result_bytes') and",
    "    (j.dg or redis.pcall('GET',of('result',j.n))==S('result')) then",
    "    return reply('OK','job',out(j))",
    "  end",
    "  if same and state=='LOST' then",
    /* Said again without poll_on: it is looked for no more. */
    "    if N('poll_on')==0 and j.pu then",
    "      put(j,{pu=0})",
    "      unschedule(j.n)",
    "    end",
    "    return reply('OK','job',out(j))",
    "  end",
    "  if j.s~='LOST' then return reply('CONFLICT','job',out(j)) end",
    "end",
    "finish(j)",
    "return reply('OK','job',out(j))",
    NULL,
};

const char *const redis_lua_retry_job[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "local r=retry(j,S('submit_id'))",
    "return reply(r,'job',out(j))",
    NULL,
};

const char *const redis_lua_delete_result[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "if j.f~='kept' or j.xm<=now then return reply('CONFLICT','job',out(j)) end",
    "gone(j,'deleted')",
    "notify(j.n)",
    "return reply('OK','job',out(j))",
    NULL,
};

const char *const redis_lua_shorten[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "if j.f~='kept' or j.xm<=now then return reply('CONFLICT','job',out(j)) end",
    "local x=now+N('keep')",
    "if x<j.xm then",
    "  if x<=now then",
    "    gone(j,'expired')",
    "  else",
    "    put(j,{xm=x})",
    "    for _,kind in ipairs({'result','input','chunks','cursor'}) do",
    "      redis.call('PEXPIREAT',of(kind,j.n),str(x))",
    "    end",
    "    ix('ZADD',B..'expiry',str(x),j.n)",
    "  end",
    "  notify(j.n)",
    "end",
    "return reply('OK','job',out(j))",
    NULL,
};

const char *const redis_lua_append_chunks[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "local key=of('chunks',j.n)",
    "local from=N('from')",
    "local count=j.cc or 0",
    "if j.g~=N('generation') or j.f=='expired' or j.f=='evicted' or j.f=='deleted' or",
    "  (j.f=='kept' and j.xm<=now) then",
    "  return reply('CONFLICT','job',out(j))",
    "end",
    "if from<count and from+#C<=count then",
    /* A reply was lost and the same question comes again: the same chunks are there. */
    "  local there=redis.pcall('LRANGE',key,str(from),str(from+#C-1))",
    "  if there.err then bad[#bad+1]=key; return reply('BROKEN') end",
    "  local same=#there==#C",
    "  for i=1,#C do same=same and there[i]==C[i] end",
    "  if same then return reply('OK','job',out(j)) end",
    "end",
    "if from~=count then return reply('CONFLICT','job',out(j)) end",
    "local length=redis.pcall('LLEN',key)",
    "if type(length)=='table' or length~=count then bad[#bad+1]=key; return reply('BROKEN') end",
    "local bytes=0",
    "for i=1,#C do",
    "  redis.call('RPUSH',key,C[i])",
    "  bytes=bytes+#C[i]",
    "end",
    "local before=sums(j)",
    "put(j,{cc=count+#C,cb=(j.cb or 0)+bytes})",
    "if j.f=='kept' then redis.call('PEXPIREAT',key,str(j.xm))",
    "elseif ended(j) then redis.call('PEXPIREAT',key,str(now+DAY)) end",
    "tally(before,sums(j))",
    "return reply('OK','job',out(j))",
    NULL,
};

const char *const redis_lua_read_chunks[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "local key=of('chunks',j.n)",
    "local from,limit,most=N('from'),N('limit'),N('limit_bytes')",
    "local o,bytes={},0",
    "if most==0 then most=9007199254740991 end",
    "local last=math.min(from+limit,j.cc or 0)",
    "while from<last do",
    "  local r=redis.pcall('LRANGE',key,str(from),str(math.min(from+16,last)-1))",
    "  if r.err then bad[#bad+1]=key; return reply('BROKEN') end",
    "  if #r==0 then break end",
    "  for _,chunk in ipairs(r) do",
    "    if #o>0 and bytes+#chunk>most then from=last; break end",
    "    o[#o+1]=chunk",
    "    bytes=bytes+#chunk",
    "    from=from+1",
    "  end",
    "end",
    "return reply('OK','job',out(j),'chunks',o)",
    NULL,
};

const char *const redis_lua_get_cursor[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    "local key=of('cursor',j.n)",
    "local v=redis.pcall('HGET',key,S('consumer'))",
    "if type(v)=='table' then bad[#bad+1]=key; return reply('BROKEN') end",
    "local position,over='0','0'",
    "if v then",
    "  position,over=string.match(v,'^(%d+) ([01])$')",
    "  if not position or #position>16 then bad[#bad+1]=key; return reply('BROKEN') end",
    "end",
    "return reply('OK','job',out(j),'position',position,'over',over)",
    NULL,
};

const char *const redis_lua_set_cursor[] = {
    "local j,e=load(name())",
    "if not j then return reply(e) end",
    /* A late write must not skip chunks of a retried run. */
    "if N('generation')>0 and j.g~=N('generation') then",
    "  return reply('CONFLICT','job',out(j))",
    "end",
    "local key=of('cursor',j.n)",
    "local value=str(N('from'))..' '..(N('over')>0 and '1' or '0')",
    "local r=redis.pcall('HSET',key,S('consumer'),value)",
    "if type(r)=='table' then bad[#bad+1]=key; return reply('BROKEN') end",
    "if j.f=='kept' then redis.call('PEXPIREAT',key,str(j.xm))",
    "elseif ended(j) then redis.call('PEXPIREAT',key,str(now+DAY)) end",
    "return reply('OK','job',out(j))",
    NULL,
};
